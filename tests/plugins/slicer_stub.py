"""What MONAI Label's module needs of 3D Slicer: scene, segments, label maps as files, and the download cache.

Segments are exported to label maps as `vtkSlicerSegmentationsModuleLogic` does it: numbered from 1 in the order of the
list of segments; and imported so from values 1, 2, .... Downloads are cached and checked as `downloadFile` does it
(https://github.com/Slicer/Slicer, Modules/Scripted/SampleData/SampleData.py, commit
01c2def0e79b18c3258a34676781f7ec128197a3). The widgets only hold values.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import types
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import SimpleITK as sitk


class Combo:
    """Qt's combo box."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.currentIndex = list(texts), 0 if texts else -1

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def currentText(self) -> str:
        return self.texts[self.currentIndex] if 0 <= self.currentIndex < len(self.texts) else ""

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.currentIndex = self.findText(text)

    def addItem(self, text: str, *_: object) -> None:
        self.texts.append(text)
        self.currentIndex = max(self.currentIndex, 0)

    def addItems(self, texts: list[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self.texts, self.currentIndex = [], -1

    def findText(self, text: str) -> int:
        return self.texts.index(text) if text in self.texts else -1

    def itemText(self, index: int) -> str:
        return self.texts[index] if 0 <= index < len(self.texts) else ""

    def setCurrentIndex(self, index: int) -> None:
        self.currentIndex = index

    def setCurrentText(self, text: str | None) -> None:
        self.currentIndex = self.findText(text or "")

    def blockSignals(self, _: bool) -> bool:
        return False

    def __getattr__(self, _: str) -> Any:
        return lambda *arguments: None


class Widgets(dict[str, Any]):
    """The module's widgets by name."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            self[name] = Combo() if name.endswith(("Selector", "Box", "optionsSection", "optionsName")) else MagicMock()
            if name.endswith("CheckBox"):
                self[name] = types.SimpleNamespace(
                    checked=False, setEnabled=lambda _: None, show=lambda: None, hide=lambda: None
                )
            if name == "configTable":
                self[name].rowCount = 0
            if name.endswith("PlaceWidget"):
                self[name].currentNode.return_value = None
        return self[name]


class Parameters(dict[str, str]):
    """A parameter node."""

    def GetParameter(self, name: str) -> str:
        return self.get(name, "")

    def SetParameter(self, name: str, value: str) -> None:
        self[name] = value

    def __getattr__(self, _: str) -> Any:
        return lambda *arguments: None


class VolumeNode:
    """A scalar volume that was loaded from a file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.image = path, name, sitk.ReadImage(str(path))

    def GetName(self) -> str:
        return self.name

    def GetRASToIJKMatrix(self, _: object) -> None:
        """Points of the tests are voxels already."""


class Segment:
    """A segment: a name, tags, and voxels (k, j, i)."""

    def __init__(self, name: str) -> None:
        self.name, self.tags, self.voxels = name, dict[str, str](), None

    def GetName(self) -> str:
        return self.name

    def SetTag(self, key: str, value: str) -> None:
        self.tags[key] = value

    def GetTag(self, key: str, value: Mutable) -> bool:
        value.text = self.tags.get(key, "")
        return key in self.tags


class Segmentation:
    """Segments in their order."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}

    def GetNumberOfSegments(self) -> int:
        return len(self.segments)

    def GetNthSegmentID(self, index: int) -> str:
        return list(self.segments)[index]

    def GetSegment(self, name: str) -> Segment | None:
        return self.segments.get(name)

    def GetSegmentIdBySegmentName(self, name: str) -> str:
        return next((key for key, segment in self.segments.items() if segment.name == name), "")

    def AddEmptySegment(self, key: str, name: str, _: object = None) -> None:
        self.segments[key] = Segment(name)

    def GetSegmentIDs(self, names: list[str]) -> None:
        names.extend(self.segments)


class Node:
    """Any other node of the scene."""

    def __init__(self) -> None:
        self.segmentation, self.array, self.reference = Segmentation(), None, None

    def GetSegmentation(self) -> Segmentation:
        return self.segmentation

    def __getattr__(self, _: str) -> Any:
        return lambda *arguments: MagicMock()


class Mutable:
    """vtk.mutable"""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class StringArray(list[str]):
    """vtk.vtkStringArray"""

    InsertNextValue = list.append


class Matrix:
    """vtk.vtkMatrix4x4, the identity."""

    def MultiplyDoublePoint(self, point: list[float]) -> list[float]:
        return point


class Points:
    """A list of points, given as voxels."""

    def __init__(self, *voxels: tuple[float, ...]) -> None:
        self.voxels = voxels

    def GetNumberOfControlPoints(self) -> int:
        return len(self.voxels)

    def GetNthControlPointPosition(self, index: int) -> tuple[float, ...]:
        return self.voxels[index]

    def GetNthControlPointPositionWorld(self, index: int, world: list[float]) -> None:
        world[:] = self.voxels[index]


class Segmentations:
    """Logic of the module Segmentations."""

    def ExportSegmentsToLabelmapNode(self, node: Node, names: list[str], target: Node, volume: VolumeNode) -> None:
        array = np.zeros(sitk.GetArrayViewFromImage(volume.image).shape, np.uint8)
        for value, name in enumerate(names, 1):
            segment = node.segmentation.segments[name]
            if segment.voxels is not None:
                array[segment.voxels] = value
        target.array, target.reference = array, volume.image

    def ImportLabelmapToSegmentationNode(self, source: Node, node: Node, names: list[str] | None = None) -> None:
        assert names is not None
        for value, name in enumerate(names, 1):
            if name not in node.segmentation.segments:
                node.segmentation.AddEmptySegment(name, name)
            node.segmentation.segments[name].voxels = source.array == value


class Slicer:
    """The modules `slicer`, `qt`, `vtk`, ... in ``sys.modules``."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.folder, self.messages = folder / "cache", folder, list[str]()
        self.cache.mkdir(parents=True)
        self.settings: dict[str, Any] = {"MONAILabel/autoRunSegmentationOnNextSample": False}
        self.volume: VolumeNode | None = None
        self.dialog: types.SimpleNamespace | None = None
        self.downloads = 0

    def install(self, modules: dict[str, types.ModuleType | Any]) -> None:
        """Put the stubs into a copy of ``sys.modules``."""
        slicer = MagicMock()
        slicer.util = types.SimpleNamespace(
            settingsValue=lambda key, default, converter=None: self.settings.get(
                key, default if converter is None else False
            ),
            toBool=bool,
            confirmOkCancelDisplay=lambda *_, **__: True,
            errorDisplay=self._fail,
            warningDisplay=self._fail,
            infoDisplay=lambda text, **_: self.messages.append(text),
            createProgressDialog=lambda **_: MagicMock(),
            getNodesByClass=lambda _: [],
            tempDirectory=lambda name: tempfile.mkdtemp(prefix=name, dir=self.folder),
            saveNode=self._save,
            loadUI=lambda _: MagicMock(),
            childWidgetVariables=lambda _: self.dialog,
            VTKObservationMixin=type("VTKObservationMixin", (), {}),
        )
        slicer.mrmlScene.GetFirstNodeByClass = lambda name: self.volume if name == "vtkMRMLScalarVolumeNode" else None
        slicer.mrmlScene.AddNewNodeByClass = lambda _: Node()
        slicer.modules.segmentations.logic.return_value = Segmentations()
        loadable = types.ModuleType("slicer.ScriptedLoadableModule")
        for name in (
            "ScriptedLoadableModule",
            *(f"ScriptedLoadableModule{part}" for part in ("Widget", "Logic", "Test")),
        ):
            setattr(loadable, name, type(name, (), {"__init__": lambda self, *_: None}))
        loadable.__all__ = [name for name in vars(loadable) if name.startswith("Scripted")]  # type: ignore[attr-defined]
        qt = MagicMock()
        qt.QDialog = type(
            "QDialog", (), {name: lambda self, *_: None for name in ("setWindowTitle", "setLayout", "exec", "close")}
        )
        qt.QSettings = lambda: types.SimpleNamespace(value=self.settings.get, setValue=self.settings.__setitem__)
        ctk = MagicMock()
        ctk.ctkSettingsPanel = object
        vtk = MagicMock(mutable=Mutable, vtkStringArray=StringArray, vtkMatrix4x4=Matrix)
        translations = types.SimpleNamespace(tr=lambda text: text, translate=lambda _, text: text)
        utilities = types.SimpleNamespace(PushVolumeToSlicer=self._push)
        sample_data = types.SimpleNamespace(
            SampleDataLogic=lambda: types.SimpleNamespace(downloadFromURL=self.download)
        )
        modules |= {"slicer": slicer, "slicer.util": slicer.util, "slicer.i18n": translations, "qt": qt, "ctk": ctk}
        modules |= {"slicer.ScriptedLoadableModule": loadable, "vtk": vtk, "vtkSegmentationCore": MagicMock()}
        modules |= {"sitkUtils": utilities, "SampleData": sample_data}

    def download(self, nodeNames: str, fileNames: str, uris: str, checksums: str | None = None) -> list[VolumeNode]:
        """Download a file into the cache, unless it is there with the right checksum."""
        path = self.cache / fileNames
        algorithm, digest = checksums.split(":") if checksums is not None else (None, None)
        assert algorithm in (None, "SHA256")
        if path.exists() and digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            path.unlink()
        if not path.exists():
            self.downloads += 1
            urllib.request.urlretrieve(uris, path)
            if digest is not None:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        self.volume = VolumeNode(path, nodeNames)
        return [self.volume]

    def _save(self, node: Any, path: str) -> None:
        if isinstance(node, VolumeNode):
            shutil.copyfile(node.path, path)
            return
        image = sitk.GetImageFromArray(node.array)
        image.CopyInformation(node.reference)
        sitk.WriteImage(image, path)

    def _push(self, image: Any, *_: object, **__: object) -> Node:
        node = Node()
        node.array, node.reference = sitk.GetArrayFromImage(image), image
        return node

    def _fail(self, text: str, detailedText: str = "") -> None:
        raise AssertionError(f"{text}\n{detailedText}") from sys.exc_info()[1]
