"""The notebooks run from top to bottom, and are stored without what they print."""

import json
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def this_interpreter(folder: Path, forks: Path) -> AsyncKernelManager:
    """A manager of kernels that are forks of one warm process, whatever kernels the machine has."""
    kernel = folder / "python3"
    kernel.mkdir(parents=True)
    command = [str(forks / "kernel"), "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    known = KernelSpecManager(kernel_dirs=[str(folder)])
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=known)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_errors_and_warnings(
    path: Path, tmp_path: Path, forks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # the user's own settings stay out of it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # networks this small gain nothing from more
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        km=this_interpreter(tmp_path / "kernels", forks),
        timeout=300,
        resources={"metadata": {"path": str(work)}},
    )
    # Raises CellExecutionError with the cell and its traceback. A manager of our own is left open unless told.
    client.execute(cleanup_kc=True)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert list(work.iterdir()) == []  # an audit without `output` writes nothing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert "execution" not in cell.metadata  # times of a run
