"""OpenVINO IR: an .xml file with its weights in a .bin beside it, from the ONNX graph."""

from pathlib import Path
from tempfile import TemporaryDirectory

from resdet.dependencies import import_extra
from resdet.export.network import Network
from resdet.export.onnx import to_onnx
from resdet.export.refusals import refusing
from resdet.files.writing import write_bytes


def write_openvino(network: Network, out: Path) -> None:
    """Write `network` as `out` and its .bin file, in fp32.

    The IR is made of the ONNX graph and not of torch's, so that both runtimes compute the same
    operators; OpenVINO reads NMS by rows, RoIAlign and dynamic sizes from it.
    """
    content = to_onnx(network)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:100]}.") as folder:
        write_ir(write_bytes(Path(folder) / "model.onnx", content), out)


def write_ir(source: Path, out: Path, *, halve: bool = False) -> None:
    """Write an ONNX file as `out` and its .bin file; with `halve` the weights in half precision.
    UserError where OpenVINO does not convert it."""
    openvino = import_extra("openvino", "export", "an export to OpenVINO")
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:100]}.") as folder:
        written = Path(folder) / "model.xml"
        remedy = "update openvino, or export to .onnx, which ONNX Runtime reads"
        with refusing(f"{out}: OpenVINO does not convert the network", remedy):
            model = openvino.convert_model(source)
        with refusing(f"{out}: OpenVINO does not write it", "free some space, or rename OUT", out):
            openvino.save_model(model, written, compress_to_fp16=halve)
        write_bytes(out.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_bytes(out, written.read_bytes())
