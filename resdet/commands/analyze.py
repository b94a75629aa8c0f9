"""What `resdet analyze` runs: counts, the comparison, layer responses and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.analysis.counts import LayerRow
from resdet.errors import UserError
from resdet.files.writing import make_folder, write_csv, write_json
from resdet.viz.tables import print_table

if TYPE_CHECKING:
    from resdet.analysis.networks import Network

DEFAULT_OUT = Path("runs") / "analysis"
MIB = 2**20
FP32_BYTES = 4
Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def analyze_command(
    *,
    names: Sequence[str] = (),
    overrides: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    layers: bool = False,
    compare: bool = False,
    responses: Sequence[str] = (),
    curves: Sequence[str] = (),
    num_images: int = 1000,
    max_error: float | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Print the tables that are asked for, draw their figures, and return the files written.

    `names` are registry names, configs or runs (with `overrides`, at `image_size` (height,
    width)), which are written to `out` only where that is given; the others write there, or to
    runs/analysis.
    Raises UserError for what a user can fix.
    """
    folder = Path(out) if out is not None else DEFAULT_OUT
    written: list[Path] = []
    if names:
        written += _counts(names, overrides, image_size, layers, folder if out else None)
    if compare:
        written += _compare(folder)
    if responses:
        written += _responses(responses, num_images, device, folder)
    if curves:
        written += _curves(curves, max_error, folder)
    if written:
        print(f"\nwritten to {folder}: {', '.join(path.name for path in written)}")
    return written


def _counts(
    names: Sequence[str],
    overrides: Sequence[str],
    image_size: tuple[int, int] | None,
    layers: bool,
    folder: Path | None,
) -> list[Path]:
    from resdet.analysis.networks import count_named

    networks = [count_named(name, overrides, image_size) for name in names]
    print_table("", *network_table(networks))
    for network in networks:
        if network.count.training_only:
            count = network.count
            print(
                f"{network.name}: {count.training_only:,} of the parameters are auxiliary "
                f"classifiers', used in training only; {count.parameters - count.training_only:,} "
                "without"
            )
    if layers:
        for network in networks:
            print_table(network.name, *layer_rows(network))
    if folder is None:
        return []
    return _write_counts(networks, layers, folder)


def _write_counts(networks: Sequence[Network], layers: bool, folder: Path) -> list[Path]:
    """analysis.json, analysis.csv with one line per network, and with `layers` a table of each."""
    make_folder(folder)
    records: list[dict[str, Any]] = []
    for network in networks:
        count = asdict(network.count)
        height, width = count.pop("image_size")
        rows = count.pop("layers")
        record = {
            "name": network.name,
            "num_classes": network.num_classes,
            "height": height,
            "width": width,
            **count,
        }
        records.append({**record, "layers": rows} if layers else record)
    plain = [{key: value for key, value in r.items() if key != "layers"} for r in records]
    written = [write_json(folder / "analysis.json", records)]
    written.append(write_csv(folder / "analysis.csv", plain))
    for record in records if layers else ():
        lines = [{**row, "output": "x".join(map(str, row["output"]))} for row in record["layers"]]
        written.append(write_csv(folder / f"layers_{_file_name(record['name'])}.csv", lines))
    return written


def network_table(networks: Sequence[Network]) -> Table:
    """Header and one row per network; activations are what training on one image keeps, in fp32."""
    header = [
        "network",
        "input",
        "classes",
        "layers",
        "parameters",
        "multiply-adds",
        "parameters MiB",
        "activations MiB",
    ]
    rows = []
    for network in networks:
        count = network.count
        rows.append(
            [
                network.name,
                "×".join(map(str, count.image_size)),
                "–" if network.num_classes is None else str(network.num_classes),
                str(count.depth),
                f"{count.parameters:,}",
                f"{count.multiply_adds / 1e9:.3f} G",
                f"{count.parameters * FP32_BYTES / MIB:.1f}",
                f"{count.activation_bytes / MIB:.1f}",
            ]
        )
    return header, rows


def layer_rows(network: Network) -> Table:
    """Header and one row per module, in the order of the forward pass, and their total."""
    header = ["layer", "kind", "output", "parameters", "multiply-adds M", "activations MiB"]
    total = LayerRow(
        "total",
        "",
        (),
        sum(row.parameters for row in network.count.layers),
        network.count.multiply_adds,
        network.count.activation_bytes,
    )
    return header, [
        [
            row.name,
            row.kind,
            "×".join(map(str, row.output)),
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e6:.2f}",
            f"{row.activation_bytes / MIB:.2f}",
        ]
        for row in [*network.count.layers, total]
    ]


def _compare(folder: Path) -> list[Path]:
    from resdet.analysis.compare import compare_published, compare_records, compare_table
    from resdet.viz.analysis import plot_compare

    rows = compare_published()
    print_table("Depth, parameters and error, ours and published", *compare_table(rows))
    make_folder(folder)
    return [
        write_json(folder / "compare.json", compare_records(rows)),
        plot_compare(rows, folder / "compare.png"),
    ]


def _responses(
    specs: Sequence[str], num_images: int, device: str | None, folder: Path
) -> list[Path]:
    from resdet.analysis.curves import run_names
    from resdet.analysis.responses import run_responses
    from resdet.hardware import choose_device
    from resdet.viz.analysis import plot_responses

    place = choose_device(device, 0)
    runs = [
        run_responses(spec, name=name, num_images=num_images, device=place)
        for spec, name in zip(specs, run_names(specs), strict=True)
    ]
    header = ["run", "layers", "images", "measured", "mean std", "largest", "smallest"]
    rows = []
    for run in runs:
        values = [layer.std for layer in run.layers]
        measured = "after the norm" if run.after_norm else "the convolutions"
        numbers = (sum(values) / len(values), max(values), min(values))
        cells = [run.name, str(len(values)), str(run.num_images), measured]
        rows.append([*cells, *(f"{number:.4f}" for number in numbers)])
    print_table("Standard deviation of the 3×3 layers' responses", header, rows)
    make_folder(folder)
    return [
        write_json(folder / "responses.json", [asdict(run) for run in runs]),
        plot_responses(runs, folder / "responses.png"),
    ]


def _curves(runs: Sequence[str], max_error: float | None, folder: Path) -> list[Path]:
    from resdet.analysis.curves import curve_records, curve_table, read_curves
    from resdet.analysis.detector_curves import are_detectors
    from resdet.viz.analysis import plot_curves

    if are_detectors(runs):
        if max_error is not None:
            raise UserError("--max-error: detectors have no error; leave it out")
        return _detector_curves(runs, folder)
    curves = read_curves(runs)
    print_table("Errors", *curve_table(curves))
    make_folder(folder)
    return [
        write_csv(folder / "curves.csv", curve_records(curves)),
        plot_curves(curves, folder / "curves.png", max_error=max_error),
    ]


def _detector_curves(runs: Sequence[str], folder: Path) -> list[Path]:
    from resdet.analysis.detector_curves import (
        detector_records,
        detector_table,
        read_detector_curves,
    )
    from resdet.viz.detector_curves import plot_detector_curves

    curves = read_detector_curves(runs)
    print_table("Training loss and validation", *detector_table(curves))
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_csv(folder / "curves.csv", detector_records(curves)),
        plot_detector_curves(curves, folder / "curves.png"),
    ]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
