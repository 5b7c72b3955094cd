"""What a model in this process is: a network, trees, or something else."""

from collections.abc import Iterator

from mia_lightning.training.models import ModelKind

_MATRIX_OPERATORS = {"Gemm", "MatMul", "Conv", "LinearClassifier", "LSTM", "GRU", "Attention"}


def kind_of_onnx(content: bytes) -> ModelKind:
    """By the operators of its graph."""
    try:
        operators = set(_operators(memoryview(content)))
    except (IndexError, ValueError):  # not as ONNX writes it
        return "unknown"
    if any(name.startswith("TreeEnsemble") for name in operators):
        return "trees"
    if any(name.startswith("SVM") for name in operators):
        return "unknown"
    return "network" if operators & _MATRIX_OPERATORS else "unknown"


def _operators(model: memoryview) -> Iterator[str]:
    """ModelProto.graph (7), GraphProto.node (1), NodeProto.op_type (4)."""
    for graph in _messages(model, 7):
        for node in _messages(graph, 1):
            for name in _messages(node, 4):
                yield bytes(name).decode()


def _messages(content: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of this number in a protobuf message, as far as they are of bytes."""
    place = 0
    while place < len(content):
        tag, place = _number(content, place)
        wire = tag & 7
        if wire == 0:
            _, place = _number(content, place)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        elif wire == 2:
            length, place = _number(content, place)
            if tag >> 3 == wanted:
                yield content[place : place + length]
            place += length
        else:
            raise ValueError(f"wire type {wire}")


def _number(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
