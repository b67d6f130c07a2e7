"""Several models behind one server: which one a scan gets, and that every client sees its classes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydicom import dcmread

from s2vnet.data.plan import Plan
from s2vnet.errors import CheckpointError, InputError
from s2vnet.io.files import write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.session_store import SessionStore
from s2vnet.server.settings import Settings

CT, MR = "abdomen-ct", "hippocampus-mr"
BOTH = (CT, MR)
SHAPE = (36, 40, 6)
GRID = Geometry(SHAPE, np.diag([4.0, 4, 5, 1]))
HOST = {"base_url": "http://127.0.0.1:1537", "client": ("127.0.0.1", 50000)}


def scan_of(modality: str, channels: int = 1) -> Volume:
    """Soft tissue in air for a CT; voxels above 0 for an MR."""
    rng = np.random.default_rng(0)
    if modality == "MR":
        return Volume(rng.gamma(2, 100, (channels, *SHAPE)).astype(np.float32), GRID)
    voxels = np.full((channels, *SHAPE), -1000, np.float32)
    voxels[:, 6:-6, 6:-6] = 40 + rng.normal(0, 10, (channels, 24, 28, 6))
    return Volume(voxels, GRID)


@pytest.fixture(scope="module")
def library() -> ModelLibrary:
    """Both models of the package."""
    return ModelLibrary.from_pretrained(BOTH, "cpu", "torch")


@pytest.fixture
def scans(tmp_path: Path, write_series: Callable[..., None]) -> Path:
    """A scan of each modality as NIfTI, and a CT series without any voxel below 0."""
    folder = tmp_path / "scans"
    (folder / "series").mkdir(parents=True)
    for modality in ("CT", "MR"):
        write_image(folder / f"{modality}.nii.gz", scan_of(modality))
    write_series(folder / "series", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16))
    return folder


@pytest.fixture
def settings(scans: Path, tmp_path: Path) -> Settings:
    return Settings(models=BOTH, data=scans, state=tmp_path / "state", runtime="torch", device="cpu")


@pytest.fixture
def client(settings: Settings, library: ModelLibrary) -> Iterator[TestClient]:
    with TestClient(create_app(settings, library), **HOST) as client:  # type: ignore[arg-type]
        yield client


def store_of(client: TestClient) -> SessionStore:
    return client.app.state.store  # type: ignore[attr-defined, no-any-return]


def test_models_are_loaded_at_their_first_use_and_their_memory_counts(scans: Path, tmp_path: Path) -> None:
    library = ModelLibrary.from_pretrained(BOTH, "cpu", "torch")
    assert (library.names, library.nbytes) == ([*BOTH], 0)
    values = {"models": BOTH, "data": scans, "state": tmp_path / "state"}
    store = SessionStore(Settings.model_validate(values), library)
    before = store.memory.excess_nbytes
    mr = store.open("MR.nii.gz")
    mr.wait_ready(60)
    assert library.get(MR).nbytes > 10**6
    assert library.get(CT).nbytes == 0
    assert store.memory.excess_nbytes == before + library.nbytes + mr.nbytes
    store.memory.limit = 0
    mr.last_used = 0.0
    store.maintain()  # beyond the limit, sessions are closed, and then their models unloaded
    assert (store.count, library.nbytes) == (0, 0)
    store.memory.limit = 2**32
    assert store.get(mr.name).wait_ready(60).segmenter.sha256 == library.get(MR).sha256
    store.close()


def test_a_scan_gets_the_model_of_its_modality(client: TestClient) -> None:
    info = client.get("/api/info").json()
    assert [(model["name"], model["modality"]) for model in info["models"]] == [(CT, "CT"), (MR, "MR")]
    for scan, name in (("CT.nii.gz", CT), ("MR.nii.gz", MR), ("series", CT)):
        state = client.post("/api/sessions", json={"image": scan}).json()
        assert state["model"] == name
        classes = [each["name"] for model in info["models"] if model["name"] == name for each in model["classes"]]
        session = store_of(client).get(state["session"]).wait_ready(60)
        assert list(session.class_names.values()) == classes
        assert session.labels.max() < len(classes)
    # abdomen-ct has a class 13, hippocampus-mr has not
    mr = client.post("/api/sessions", json={"image": "MR.nii.gz"}).json()["session"]
    click = {"entries": [{"kind": "point", "class_id": 13, "voxel": [5, 5, 2]}]}
    refused = client.post(f"/api/sessions/{mr}/prompts", json=click)
    assert (refused.status_code, refused.json()["detail"]) == (422, "no class 13; the model knows 0 to 2")


def test_a_model_can_be_named_unless_the_scan_contradicts_it(client: TestClient) -> None:
    named = client.post("/api/sessions", json={"image": "CT.nii.gz", "model": CT}).json()
    assert named["model"] == CT
    assert store_of(client).get(named["session"]).wait_ready(60)
    other = client.post("/api/sessions", json={"image": "series", "model": MR}).json()
    with pytest.raises(InputError, match="series: CT by its DICOM header, and the model is for MR"):
        store_of(client).get(other["session"]).wait_ready(60)
    unknown = client.post("/api/sessions", json={"image": "CT.nii.gz", "model": "brain"})
    expected = f"no such model: 'brain'; this server has {CT}, {MR}"
    assert (unknown.status_code, unknown.json()["detail"]) == (404, expected)


def test_a_scan_of_neither_modality_is_refused_where_it_is_opened_unless_it_was_sent(
    client: TestClient, scans: Path, write_series: Callable[..., None]
) -> None:
    (scans / "pet").mkdir()
    write_series(scans / "pet", np.zeros(SHAPE, np.int16))
    for file in (scans / "pet").iterdir():
        header = dcmread(file)
        header.Modality = "PT"
        header.save_as(file)
    refused = client.post("/api/sessions", json={"image": "pet"})
    assert (refused.status_code, refused.json()["detail"].startswith("pet: PT by its DICOM header")) == (422, True)
    assert str(scans) not in refused.text
    content = (scans / "CT.nii.gz").read_bytes()
    sent = client.post("/api/scans", files={"file": ("x.nii.gz", content)}).json()
    assert client.post("/api/sessions", json={"image": sent["id"], "model": MR}).status_code == 201


def test_sessions_have_their_models_again_after_a_restart(settings: Settings, library: ModelLibrary) -> None:
    store = SessionStore(settings, library)
    workers = [store.open(scan) for scan in ("CT.nii.gz", "MR.nii.gz")]
    labels = [worker.wait_ready(60).labels for worker in workers]
    store.close()
    turned = SessionStore(settings, ModelLibrary(list(library)[::-1]))
    for worker, before in zip(workers, labels, strict=True):
        again = turned.get(worker.name)
        assert again.model.name == worker.model.name
        np.testing.assert_array_equal(again.wait_ready(60).labels, before)
    turned.close()
    one = SessionStore(settings, ModelLibrary([library.get(CT)]))
    assert one.get(workers[0].name).wait_ready(60) is not None
    with pytest.raises(InputError, match=f"the session is of another model, {MR} "):
        one.get(workers[1].name)
    one.close()


def test_monai_label_lists_all_models_and_infers_by_name(client: TestClient) -> None:
    info = client.get("/monailabel/info/").json()
    kinds = ("automatic", "clicks", "object", "scribbles")
    assert list(info["models"]) == [f"{name}-{kind}" for name in BOTH for kind in kinds]
    assert info["models"][f"{MR}-automatic"]["labels"] == {"Anterior": 1, "Posterior": 2}
    assert {"liver", "Anterior", "background"} <= set(info["labels"])
    assert list(info["trainers"]) == [*BOTH]
    for scan, name, other in (("CT.nii.gz", CT, MR), ("MR.nii.gz", MR, CT)):
        answer = client.post(f"/monailabel/infer/{name}-automatic?image={scan}&output=json").json()
        known = store_of(client).models.get(name).classes
        assert answer["label_names"] == {text: value for value, text in known.items()}
        refused = client.post(f"/monailabel/infer/{other}-automatic?image={scan}&output=json")
        assert refused.status_code == 422
        assert "choose another model" in refused.json()["detail"]
    unknown = client.post("/monailabel/infer/automatic?image=CT.nii.gz&output=json")
    assert (unknown.status_code, f"choose one of {CT}-automatic" in unknown.json()["detail"]) == (404, True)


def test_labels_that_clients_save_have_the_classes_of_their_model(client: TestClient, scans: Path) -> None:
    """Final labels of a model train that model alone; scores compare labels of one model."""
    service = client.app.state.monailabel  # type: ignore[attr-defined]
    models = store_of(client).models
    for scan, name in (("CT.nii.gz", "liver"), ("MR.nii.gz", "Posterior")):
        voxels = np.zeros(SHAPE, np.uint8)
        voxels[8:12, 8:12] = 1
        body = {"label": ("x.bin", voxels.tobytes(order="F"))}
        params = {"params": json.dumps({"label_info": [{"name": name}]})}
        url = f"/monailabel/datastore/label?image={scan}"
        assert client.put(url, data=params, files=body).status_code == 200
    assert [scan.image.name for scan in service.labelled_scans(models.get(CT))] == ["CT.nii.gz"]
    assert [scan.image.name for scan in service.labelled_scans(models.get(MR))] == ["MR.nii.gz"]
    classes = {"liver": CT, "Posterior": MR}
    for scan, (name, model) in zip(("CT.nii.gz", "MR.nii.gz"), classes.items(), strict=True):
        value = {text: value for value, text in models.get(model).classes.items()}[name]
        assert client.get(f"/monailabel/datastore/label/info?label={scan}").json()["labels"] == [0, value]
    job = client.post(f"/monailabel/batch/infer/{MR}-automatic?run_sync=true", json={}).json()
    assert job["result"] == {"MR.nii.gz": "original"}  # the CTs are refused, a line each
    assert sum("the model is for MR" in line for line in job["details"]) == 2


def test_a_training_starts_from_the_model_that_is_named(client: TestClient) -> None:
    refused = client.post(f"/monailabel/train/{MR}", json={})
    assert refused.json()["detail"].startswith("0 scans with final labels")
    assert client.post("/monailabel/train/brain", json={}).status_code == 404


@pytest.mark.parametrize(("label", "modality", "model", "added"), [
    ("any", "MR", MR, "object"), ("any", "CT", CT, "object"), ("liver", "CT", CT, None), (f"{MR}:2", "MR", MR, None),
    (CT, "MR", CT, "object"),
])  # fmt: skip
def test_nninteractive_chooses_by_the_image_or_the_address(
    client: TestClient, label: str, modality: str, model: str, added: str | None
) -> None:
    clients = client.app.state.nninteractive  # type: ignore[attr-defined]
    token = client.post(f"/nninteractive/{label}/RAS/claim").json()["lease_token"]
    body = pack(scan_of(modality).data)
    headers = {"x-lease-token": token, "x-meta": json.dumps({"image_properties": {"spacing": [4, 4, 5]}})}
    assert client.post(f"/nninteractive/{label}/RAS/set_image", content=body, headers=headers).status_code == 200
    lease = clients.get(token)
    assert lease.worker().model.name == model
    assert (None if lease.added is None else lease.added.name) == added
    point = {"coordinates": [10, 10, 3], "include_interaction": True}
    answer = client.post("/nninteractive/add_point_interaction", json=point, headers=headers)
    assert answer.status_code == 200


def test_addresses_that_name_nothing_are_refused(client: TestClient) -> None:
    for label, message in ((f"{MR}:liver", "no such class 'liver'"), ("brain", "no such class or model 'brain'"),
                           ("1", f"several models have a class '1'; name one by {CT}:1 or {MR}:1")):  # fmt: skip
        answer = client.post(f"/nninteractive/{label}/claim")
        assert answer.status_code in (404, 422)
        assert message in answer.json()["detail"]


@pytest.mark.parametrize(("name", "modality", "model"), [
    ("s2vnet", "MR", MR), ("s2vnet", "CT", CT), (f"s2vnet-{MR}-anterior", "MR", MR), (f"s2vnet-{CT}", "CT", CT),
])  # fmt: skip
def test_itksnap_chooses_by_the_image_or_the_models_name(
    client: TestClient, name: str, modality: str, model: str
) -> None:
    assert name in [each["id"] for each in client.get("/v2/models").json()["models"]]
    session = client.get(f"/v2/start_session/{name}").json()["session_id"]
    array = gzip.compress(scan_of(modality).data[0].astype("<f4").tobytes(order="F"))
    metadata = json.dumps({"dimensions": SHAPE, "spacing": [4, 4, 5]})
    body = {"file": ("image.gz", array), "metadata": (None, metadata)}
    assert client.post(f"/v2/upload_raw/{session}", files=body).status_code == 200
    snap = client.app.state.itksnap.get(session)  # type: ignore[attr-defined]
    assert snap.worker().model.name == model
    clicked = client.get(f"/v2/process_point_interaction/{session}?point=10&point=10&point=3&foreground=true")
    assert clicked.json()["status"] == "success"


def test_uncertainties_are_those_of_each_scans_model(client: TestClient) -> None:
    uncertainty = client.app.state.monailabel.uncertainty  # type: ignore[attr-defined]
    assert uncertainty.scores(["CT.nii.gz", "MR.nii.gz"]) == {}
    uncertainty.wait(60)
    scores = uncertainty.scores(["CT.nii.gz", "MR.nii.gz"])
    assert set(scores) == {"CT.nii.gz", "MR.nii.gz"}


def test_names_are_different_and_safe_in_addresses(save: Callable[..., Path], tmp_path: Path) -> None:
    folders = []
    for number, name in enumerate(("a/my run, 2", "b/my run, 2", "c/我")):
        folders.append(tmp_path / name)
        folders[-1].parent.mkdir()
        save(seed=number).rename(folders[-1])
    library = ModelLibrary.from_pretrained([str(folder) for folder in folders])
    assert library.names == ["my-run-2", "my-run-2-2", "model"]
    with pytest.raises(InputError, match="the same model is named twice"):
        ModelLibrary.from_pretrained([CT, CT])
    with pytest.raises(CheckpointError, match="no model 'brain'"):
        ModelLibrary.from_pretrained([CT, "brain"])


def test_channels_choose_too(save: Callable[..., Path], make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    several = save(make_plan(channels=2))
    library = ModelLibrary.from_pretrained([str(several), MR], "cpu", "torch")
    for channels, name in ((1, MR), (2, library.first.name)):
        path = tmp_path / f"{channels}.nii.gz"
        write_image(path, scan_of("MR", channels))
        assert library.choose_for_file(path, 10**6)[0].name == name
        with pytest.raises(InputError, match="more than the 10 that this server opens"):
            library.choose_for_file(path, 10)
    with pytest.raises(InputError, match="an image of 3 channels, where the model takes channel 0, channel 1 or MRI"):
        library.with_channels(3)
