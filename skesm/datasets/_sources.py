"""The files that loaders fetch: where they are, their digests, their licences, and whom to cite."""

from __future__ import annotations

from collections.abc import Iterator

from skesm.datasets._manifest import RemoteFile

#: The files at a fixed commit of the data repository of ProteinBERT, in which they are kept with Git LFS.
_PROTEINBERT = (
    "https://github.com/nadavbra/proteinbert_data_files/raw/4636c3ddfe11e3e553bbc384753a269c84d331cf/protein_benchmarks"
)

_TAPE = "R. Rao et al., NeurIPS (2019), https://arxiv.org/abs/1906.08230"

#: (licence, citation) by data set.
_TERMS = {
    "fluorescence": ("CC BY 4.0", f"K. S. Sarkisyan et al., Nature 533 (2016), 10.1038/nature17995; {_TAPE}"),
    "stability": (
        "not stated by its publishers",
        f"G. J. Rocklin et al., Science 357 (2017), 10.1126/science.aan0693; {_TAPE}",
    ),
}

#: Size and SHA-256, as the Git LFS pointers of that commit state them.
_TAPE_FILES = {
    "fluorescence.train.csv": (5_488_939, "a9a90473b64bb94bd8289cf3f7fc023d8267e19a87d79499251aed4ef91bf4e7"),
    "fluorescence.valid.csv": (1_372_356, "0c70e8ba9a9faaf8de3443edee56406f6eec414747067490296e589cf3d6af4b"),
    "fluorescence.test.csv": (6_965_550, "9abf299968555571c316ce87226638db5020efa485081fc94b8ca96bea2b1840"),
    "stability.train.csv": (3_438_868, "62cdebd9d680a0114326b4fba709e9753fdf2fb2238c8ec61ae388a55c3d1052"),
    "stability.valid.csv": (173_127, "b569b6f997aedf167b99a4900e3ac30754d0c6d80ff7f803d6f3e1398261e450"),
    "stability.test.csv": (794_974, "b79e72cdb00e524f7804d6437b80eb3be573aee3733a8e7d0b4c72917701f65b"),
}

FLIP_GB1 = "flip_gb1_splits.zip"

#: A fixed commit of FLIP's repository. The digest is of the file at this commit.
_FLIP = "https://github.com/J-SNACKKB/FLIP/raw/62cace8735f5610e2743cf06ce0f944b37fffaa6/splits/gb1/splits.zip"

ASSAYS = "DMS_substitutions.csv"
ZERO_SHOT = "DMS_substitutions_Spearman_DMS_level.csv"
MEASUREMENTS = "DMS_ProteinGym_substitutions.zip"
FOLDS = {"singles": "cv_folds_singles_substitutions.zip", "multiples": "cv_folds_multiples_substitutions.zip"}

#: A fixed commit of ProteinGym's repository, and the folder of the archives to which its digests belong.
PROTEINGYM_COMMIT = "bb685245f8f4bb95a5b54b470396c23826cd6284"
_PROTEINGYM = f"https://raw.githubusercontent.com/OATML-Markslab/ProteinGym/{PROTEINGYM_COMMIT}"
_ARCHIVES = "https://marks.hms.harvard.edu/proteingym/ProteinGym_v1.1"

_PROTEINGYM_TERMS = (
    "MIT",
    "P. Notin et al., NeurIPS 36, 64331-64379 (2023); and the article of the assay, named in the reference table",
)

#: Of the repository's files the digests are those of the files at the commit. Of the archives they are those that
#: ProteinGym's own ``proteingym/utils/download.py`` states at the commit. It states no sizes.
_PROTEINGYM_FILES = {
    ASSAYS: (
        f"{_PROTEINGYM}/reference_files/{ASSAYS}",
        208_734,
        "a8f498011532a74aa9fe556a50555a75e928c5837d19c06a87592ae04049b308",
    ),
    ZERO_SHOT: (
        f"{_PROTEINGYM}/benchmarks/DMS_zero_shot/substitutions/Spearman/{ZERO_SHOT}",
        141_235,
        "f432423b87f79ac9778dfac86e3d95be041d246bc618dc0a406b35b0b7466437",
    ),
    MEASUREMENTS: (
        f"{_ARCHIVES}/{MEASUREMENTS}",
        None,
        "3a83766254ac9ac9984ec25cb73c6e010ea4418f5e35f143933e6b6e6473b921",
    ),
    FOLDS["singles"]: (
        f"{_ARCHIVES}/{FOLDS['singles']}",
        None,
        "920f0be936233b96b5052cd23679e42355cfd2b4e6f45b4f571eb79c0b2f9c35",
    ),
    FOLDS["multiples"]: (
        f"{_ARCHIVES}/{FOLDS['multiples']}",
        None,
        "4f1453ee8ccf2d38f23ae43f97fc7f962e54e5f10390711b59f6929538dd25f9",
    ),
}


def _files() -> Iterator[RemoteFile]:
    for name, (size, sha256) in _TAPE_FILES.items():
        yield RemoteFile(name, f"{_PROTEINBERT}/{name}", size, sha256, *_TERMS[name.partition(".")[0]])
    yield RemoteFile(
        FLIP_GB1,
        _FLIP,
        1_241_473,
        "00a3c3d5be56ce35adfbec838db8ff549be369525e151a6978133da34b9fd86f",
        "AFL-3.0; the measurements CC BY 4.0",
        "N. C. Wu et al., eLife 5:e16965 (2016), 10.7554/eLife.16965; C. Dallago et al., NeurIPS Datasets and "
        "Benchmarks (2021)",
    )
    for name, (url, length, digest) in _PROTEINGYM_FILES.items():
        yield RemoteFile(name, url, length, digest, *_PROTEINGYM_TERMS)


#: Every file by its name in the data folder.
FILES: dict[str, RemoteFile] = {file.name: file for file in _files()}
