"""Which labels are probably wrong: confident learning on a pretrained network's features.

Each image's class probabilities come from a logistic regression that never saw the image nor a copy
of it; an image is suspected if they and the set's own confusions speak against its label
(Northcutt et al. 2021, arXiv 1911.00068, as cleanlab implements it).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from tlopt import registry
from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, Unreadable, batches

_FOLDS = 5
_MOST_FEATURES = 256  # principal components kept of sets above _LARGE: the fit's time grows with them
_LARGE = 10_000
_STRENGTH = 0.01  # inverse of the L2 penalty on standardized features


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An image whose label is probably wrong.

    Args:
        index: Position in the folder.
        suggestion: Label that the image looks like.
        given: Probability of its label.
        suggested: Probability of the suggestion.
    """

    index: int
    suggestion: int
    given: float
    suggested: float


def suspects(folder: ImageFolder, groups: np.ndarray, *, model: str, seed: int) -> list[Suspect]:
    """Return the images whose labels are probably wrong, the most suspect first.

    Args:
        folder: The images.
        groups: int64 (n,); images of one number never lie on both sides of a fold.
        model: ``source:name`` of the network whose features are used.
        seed: Seed of the folds.

    Raises:
        MissingLibraryError: cleanlab is not installed.
        PluginError: The model is unknown.
        ImagesError: A class has fewer than two different images.
    """
    registry.require("cleanlab")
    kept, values = features(folder, model)
    found = judge(folder.labels[kept], values, groups[kept], classes=len(folder.classes), seed=seed)
    return [replace(suspect, index=int(kept[suspect.index])) for suspect in found]


def judge(labels: np.ndarray, values: np.ndarray, groups: np.ndarray, *, classes: int, seed: int) -> list[Suspect]:
    """Return the rows whose labels are probably wrong, the most suspect first.

    Args:
        labels: int64 (n,).
        values: float32 (n, features).
        groups: int64 (n,); rows of one number never lie on both sides of a fold.
        classes: Number of classes.
        seed: Seed of the folds.

    Raises:
        ImagesError: A class has fewer than two different images.
    """
    from cleanlab.filter import find_label_issues

    probabilities = out_of_fold(values, labels, groups, classes, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab's hints are meant for its own users
        found = find_label_issues(
            labels, probabilities, filter_by="both", return_indices_ranked_by="normalized_margin", n_jobs=1
        )
    result = []
    for i in found.tolist():
        best = int(probabilities[i].argmax())
        if best != labels[i]:
            given, suggested = float(probabilities[i, labels[i]]), float(probabilities[i, best])
            result.append(Suspect(index=i, suggestion=best, given=given, suggested=suggested))
    return result


def features(folder: ImageFolder, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the readable images and their features, float32 (n, features)."""
    import torch

    from tlopt import sources
    from tlopt.networks import head, layout
    from tlopt.training import memory

    network, preprocess = sources.load(model, classes=0, pretrained_classes=len(folder.classes))
    network = layout.lay(network.eval(), torch.device("cpu"))
    position = {file: i for i, file in enumerate(folder.files)}
    unreadable = Unreadable(10 * len(folder) + 10)  # the audit lists them; they stop nothing here
    kept: list[int] = []
    found: list[np.ndarray] = []
    with torch.inference_mode(), memory.kept(), head.features(network) as seen:
        for batch in batches(folder, preprocess, batch=32, label="Checking labels", unreadable=unreadable):
            network(torch.from_numpy(batch.inputs).contiguous(memory_format=torch.channels_last))
            found.append(seen[0].float().numpy().copy())
            kept += [position[file] for file in batch.files]
    return np.array(kept, dtype=np.int64), np.concatenate(found)


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Return class probabilities of each image from the folds without it: float64 (n, classes)."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pairs = np.unique(np.stack([labels, groups]), axis=1)
    fewest = int(np.bincount(pairs[0], minlength=classes).min())
    if fewest < 2:
        raise ImagesError("A class has fewer than two different readable images.")
    steps = [StandardScaler()]
    if len(features) > _LARGE and features.shape[1] > _MOST_FEATURES:
        steps.append(PCA(_MOST_FEATURES, svd_solver="randomized", random_state=seed, whiten=True))
    result = np.zeros((len(labels), classes))
    folds = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit stopped early is close enough; small classes are checked above
        for train, held_out in folds.split(features, labels, groups):
            model = make_pipeline(*steps, LogisticRegression(C=_STRENGTH, max_iter=200))
            model.fit(features[train], labels[train])
            result[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return result
