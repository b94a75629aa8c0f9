"""OpenVINO IR: an .xml file with its weights in a .bin beside it, from the ONNX graph."""

from pathlib import Path
from tempfile import TemporaryDirectory

from resdet.dependencies import import_extra
from resdet.export.network import Network
from resdet.export.onnx import to_onnx
from resdet.files.writing import write_bytes


def write_openvino(network: Network, out: Path) -> None:
    """Write `network` as `out` and its .bin file, in fp32.

    The IR is made of the ONNX graph and not of torch's, so that both runtimes compute the same
    operators; OpenVINO reads NMS by rows, RoIAlign and dynamic sizes from it.
    """
    import_extra("openvino", "export", "an export to OpenVINO")
    content = to_onnx(network)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:100]}.") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(content)
        write_ir(source, out)


def write_ir(source: Path, out: Path, *, halve: bool = False) -> None:
    """Write an ONNX file as `out` and its .bin file; with `halve` the weights in half precision."""
    openvino = import_extra("openvino", "export", "an export to OpenVINO")
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:100]}.") as folder:
        written = Path(folder) / out.name
        openvino.save_model(openvino.convert_model(source), written, compress_to_fp16=halve)
        write_bytes(out.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_bytes(out, written.read_bytes())
