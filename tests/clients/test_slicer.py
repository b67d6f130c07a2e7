"""3D Slicer's modules MONAILabel and MONAILabelReviewer (MONAI Label 0.8.5), with a stub of 3D Slicer.

Every call that the modules make is made by their own code; whatever they would report as an error fails the test.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from slicer_stub import Parameters, Points, Slicer, VolumeNode, Widgets

from s2vnet.interactive.session import Session
from s2vnet.prompts import Point, Scribble

TOKEN = "a-secret-of-many-characters"
CLASSES = ["left part", "right"]
Serve = Callable[..., str]
Own = Callable[[str], Session]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's `cgi`, removed in Python 3.13
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="the client imports cgi, which Python 3.13 removed"),
]


@pytest.fixture
def slicer(tmp_path: Path, clients: Path, monkeypatch: pytest.MonkeyPatch) -> Slicer:
    """3D Slicer without any volume; its modules can be imported."""
    stub, modules = Slicer(tmp_path / "slicer"), dict[str, Any]()
    stub.install(modules)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    plugins = clients / "data" / "data" / "monailabel" / "plugins" / "slicer"
    for folder in ("MONAILabel", "MONAILabelReviewer"):
        monkeypatch.syspath_prepend(str(plugins / folder))
    for name in [name for name in sys.modules if name.startswith("MONAILabel")]:
        monkeypatch.delitem(sys.modules, name)
    return stub


@pytest.fixture
def open_module(slicer: Slicer, tmp_path: Path) -> Callable[[str], Any]:
    """``open_module(address)``: the module's panel, connected to a server."""

    def connect(address: str) -> Any:
        module = importlib.import_module("MONAILabel")
        panel = module.MONAILabelWidget()
        panel.ui, panel._parameterNode, panel.tmpdir = Widgets(), Parameters(), str(tmp_path / "slicer")
        panel.logic = module.MONAILabelLogic(panel.tmpdir, resourcePath=lambda name: name)
        panel.ui.serverComboBox.addItem(address)
        slicer.settings["MONAILabel/serverUrl"] = slicer.settings["MONAILabel/serverUrlHistory"] = address
        panel.onClickFetchInfo()
        return panel

    return connect


def voxels(panel: Any) -> np.ndarray:
    """Class ids (i, j, k) of the panel's segments."""
    segments = panel._segmentNode.segmentation.segments
    known = [(name, segments[name].voxels) for name in CLASSES if name in segments]
    shape = next(mask.shape for _, mask in known if mask is not None)
    labels = np.zeros(shape, np.uint8)
    for name, mask in known:
        if mask is not None:
            labels[mask] = CLASSES.index(name) + 1
    return labels.transpose(2, 1, 0)


@pytest.mark.parametrize("path", ["", "/monailabel"])
def test_the_next_sample_is_segmented_clicked_and_submitted(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer, own: Own, path: str
) -> None:
    panel = open_module(serve() + path)
    assert panel.ui.segmentationModelSelector.texts == ["automatic"]
    assert panel.ui.deepgrowModelSelector.texts == ["clicks", "object"]
    panel.onNextSampleButton()
    assert panel.current_sample["id"] == "a/image.nii.gz"
    panel.onClickSegmentation()
    session = own("a/image.nii.gz")
    np.testing.assert_array_equal(voxels(panel), session.labels)
    for label, voxel in (("right", (5.0, 9.0, 4.0)), ("left part", (11.0, 9.0, 9.0))):
        panel.ui.labelComboBox.currentText = label
        panel.resetLabelState = True  # as after a change of the label: the request has `reset_state`
        panel.dgPositivePointListNode, panel.dgNegativePointListNode = Points(voxel), Points()
        panel.onClickDeepgrow(voxel)
        session.add(Point(class_id=CLASSES.index(label) + 1, voxel=tuple(int(n) for n in voxel)))
        np.testing.assert_array_equal(voxels(panel), session.labels)
    panel.onSaveLabel()
    assert slicer.messages == ["Label-Mask saved into MONAI Label Server"]
    assert panel.info["datastore"]["completed"] == 1
    label = panel.logic.download_label("a/image.nii.gz", "final")
    panel.ui.labelPathLineEdit.currentPath = label
    panel.onImportLabel()
    np.testing.assert_array_equal(voxels(panel), session.labels)


def test_patients_with_equal_file_names_are_not_mixed_up(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer, scans: Path
) -> None:
    panel = open_module(serve())
    seen = {}
    while len(seen) < 3:
        panel._volumeNode = slicer.volume = panel._segmentNode = None
        panel.samples.clear()
        panel.ui.strategyBox.currentText = "random"
        panel.onNextSampleButton()
        assert slicer.volume is not None
        seen[panel.current_sample["id"]] = slicer.volume.path
    assert seen["a/image.nii.gz"].read_bytes() == (scans / "a" / "image.nii.gz").read_bytes()
    assert seen["b/image.nii.gz"].read_bytes() == (scans / "b" / "image.nii.gz").read_bytes()
    assert slicer.downloads == 3  # each once, then from the cache


def test_an_image_of_the_users_own_is_segmented_uploaded_and_submitted(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer, scans: Path, own: Own
) -> None:
    slicer.volume = VolumeNode(scans / "b" / "image.nii.gz", "MRHead")
    panel = open_module(serve())
    assert panel.current_sample["session"] is True
    panel.onClickSegmentation()  # in a session
    np.testing.assert_array_equal(voxels(panel), own("b/image.nii.gz").labels)
    panel.onUploadImage()
    panel.onClickSegmentation()  # by the id of the upload
    np.testing.assert_array_equal(voxels(panel), own("b/image.nii.gz").labels)
    panel.onSaveLabel()
    assert panel.logic.datastore()["objects"]["MRHead"]["labels"]["final"]["info"]["label_info"]
    with pytest.raises(AssertionError, match="training needs 5"):
        panel.onTraining()


def test_segments_that_were_removed_do_not_shift_the_others(
    serve: Serve, open_module: Callable[[str], Any], own: Own
) -> None:
    panel = open_module(serve())
    panel.onNextSampleButton()
    panel.onClickSegmentation()
    del panel._segmentNode.segmentation.segments["left part"]
    panel.onSaveLabel()
    panel.ui.labelPathLineEdit.currentPath = panel.logic.download_label("a/image.nii.gz", "final")
    panel.onImportLabel()
    labels = own("a/image.nii.gz").labels
    np.testing.assert_array_equal(voxels(panel), np.where(labels == 2, 2, 0))
    panel._segmentNode.segmentation.AddEmptySegment("tumor", "tumor")
    panel._segmentNode.segmentation.segments["tumor"].voxels = (labels == 1).transpose(2, 1, 0)
    with pytest.raises(AssertionError, match="tumor, which the model does not know"):
        panel.onSaveLabel()


def test_one_object_and_scribbles(serve: Serve, open_module: Callable[[str], Any], own: Own) -> None:
    panel = open_module(serve())
    panel.onNextSampleButton()
    session, inside, outside = own("a/image.nii.gz"), (5, 9, 4), (11, 9, 9)
    panel.ui.deepgrowModelSelector.currentText = "object"
    panel.deepedit_multi_label = False
    panel.ui.labelComboBox.currentText = "right"
    panel.dgPositivePointListNode, panel.dgNegativePointListNode = Points(inside), Points(outside)
    panel.onClickDeepgrow(inside)
    session.add(Point(class_id=2, voxel=inside), Point(class_id=2, voxel=outside, positive=False))
    np.testing.assert_array_equal(voxels(panel) == 2, session.labels == 2)
    panel.scribblesMode = None
    for name, voxel in (("background_scribbles", outside), ("foreground_scribbles", inside)):
        panel._segmentNode.segmentation.AddEmptySegment(name, name)
        drawn = np.zeros(session.geometry.shape[::-1], bool)
        drawn[voxel[::-1]] = True
        panel._segmentNode.segmentation.segments[name].voxels = drawn
    panel.ui.scribLabelComboBox.currentText = "right"
    panel.onUpdateScribbles()
    session.reset()
    session.add(Scribble(class_id=2, voxels=(inside,)), Scribble(class_id=2, voxels=(outside,), positive=False))
    np.testing.assert_array_equal(
        panel._segmentNode.segmentation.segments["right"].voxels.transpose(2, 1, 0), session.labels == 2
    )


def test_a_server_with_a_token_asks_for_a_password(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer
) -> None:
    text = types.SimpleNamespace
    slicer.dialog = text(
        username=text(text="", setText=lambda _: None),
        password=text(text=TOKEN, setText=lambda _: None),
        loginButton=text(connect=lambda *_: None),
    )
    slicer.dialog.username.text = "anybody"
    panel = open_module(serve(token=TOKEN))
    panel.onNextSampleButton()  # its download is sent without the token
    panel.onClickSegmentation()
    panel.onSaveLabel()
    assert panel.info["datastore"]["completed"] == 1


def test_an_address_with_the_token_needs_no_password(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer
) -> None:
    panel = open_module(f"{serve(token=TOKEN)}/token/{TOKEN}/monailabel")
    panel.onNextSampleButton()
    panel.onClickSegmentation()
    panel.onSaveLabel()
    assert panel.info["datastore"]["completed"] == 1


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_reviewer_approves_versions(
    serve: Serve, open_module: Callable[[str], Any], slicer: Slicer, tmp_path: Path, token: str | None
) -> None:
    address = serve(token=token) + ("/monailabel" if token is None else f"/token/{token}/monailabel")
    panel = open_module(address)
    panel.onNextSampleButton()
    panel.onClickSegmentation()
    panel.onSaveLabel()
    library = importlib.import_module("MONAILabelReviewerLib")
    reviewer = library.ImageDataController()
    assert reviewer.connectToMonaiServer(address)
    image = reviewer.getMapIdToImageData()[panel.current_sample["id"]]
    assert image.isSegemented()
    assert "/" not in image.getSegmentationFileName()
    assert reviewer.reuqestSegmentation(image.getName(), "final").status_code == 200
    slicer.download(image.getNodeName(), image.getFileName(), reviewer.getDicomDownloadUri(image.getName()))
    meta = {
        "segmentationMeta": {"status": "approved", "level": "easy", "approvedBy": "r", "comment": "", "editTime": "1"}
    }
    assert reviewer.updateLabelInfo(image.getName(), "final", meta)
    label = str(tmp_path / "label.nrrd")
    sitk.WriteImage(sitk.ReadImage(panel.logic.download_label(image.getName(), "final")), label)
    reviewer.saveLabelInMonaiServer(
        image.getName(), label, "version_1", {"label_info": [{"name": "left part"}, {"name": "right"}], **meta}
    )
    again = reviewer.getMapIdToImageData()[image.getName()]
    assert again.getVersionNames() == ["final", "version_1"]
    assert again.isApprovedVersion("version_1")
    assert reviewer.deleteLabelByVersionTag(image.getName(), "version_1")
    assert reviewer.getMapIdToImageData()[image.getName()].getVersionNames() == ["final"]
