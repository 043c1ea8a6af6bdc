"""scikit-learn's tree ensembles written as LightGBM text, so that one native predictor serves all.

LightGBM's format holds any ensemble of `value <= threshold` splits on doubles, so a forest or a
histogram gradient boosting model is data, not a pickle, and scores bit for bit as it was trained:
forests with their inputs rounded to float32 and LightGBM's `average_output`, boosting with its
baseline as a first tree of one leaf. (Format: LightGBM 4, `src/io/tree.cpp`, `gbdt_model_text.cpp`.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

DEFAULT_LEFT = 2
MISSING_NAN = 8
LEAF = -1


def forest_text(forest: Any, columns: int) -> str:
    """A fitted RandomForest or ExtraTrees model; regression, or probabilities of each class.

    Of two classes only the positive one's probability is written.
    """
    trees: list[str] = []
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        value = tree.value[:, 0, :]
        picked = [0] if value.shape[1] == 1 else [1] if value.shape[1] == 2 else range(value.shape[1])  # noqa: PLR2004
        trees.extend(
            _tree(
                len(trees) + k,
                tree.feature,
                tree.threshold,
                tree.children_left,
                tree.children_right,
                value[:, column],
                np.zeros(tree.node_count, dtype=bool),
                missing=0,
            )
            for k, column in enumerate(picked)
        )
    outputs = len(trees) // len(forest.estimators_)
    return _model(trees, outputs, columns, averaged=True)


def histogram_boosting_text(model: Any, columns: int) -> str:
    """A fitted HistGradientBoosting model on numeric inputs: its raw scores."""
    base = np.asarray(model._baseline_prediction, dtype=np.float64).ravel()  # noqa: SLF001
    trees = [_leaf(k, float(value)) for k, value in enumerate(base)]
    for iteration in model._predictors:  # noqa: SLF001
        for predictor in iteration:
            nodes = predictor.nodes
            is_leaf = nodes["is_leaf"].astype(bool)
            trees.append(
                _tree(
                    len(trees),
                    np.where(is_leaf, -2, nodes["feature_idx"]),
                    nodes["num_threshold"],
                    np.where(is_leaf, LEAF, nodes["left"].astype(np.int64)),
                    np.where(is_leaf, LEAF, nodes["right"].astype(np.int64)),
                    nodes["value"],
                    nodes["missing_go_to_left"].astype(bool),
                    missing=MISSING_NAN,
                )
            )
    return _model(trees, len(base), columns, averaged=False)


def _tree(
    number: int, feature: Any, threshold: Any, left: Any, right: Any, value: Any, default_left: Any, *, missing: int
) -> str:
    inner = np.nonzero(left != LEAF)[0]
    leaves = np.nonzero(left == LEAF)[0]
    if not len(inner):
        return _leaf(number, float(value[leaves[0]]))
    place = np.empty(len(left), dtype=np.int64)
    place[inner] = np.arange(len(inner))
    place[leaves] = -np.arange(len(leaves)) - 1  # a leaf is written as ~index
    fields: dict[str, Any] = {
        "num_leaves": [len(leaves)],
        "num_cat": [0],
        "split_feature": feature[inner],
        "split_gain": np.zeros(len(inner), dtype=int),
        "threshold": _doubles(threshold[inner]),
        "decision_type": missing + np.where(default_left[inner], DEFAULT_LEFT, 0),
        "left_child": place[left[inner]],
        "right_child": place[right[inner]],
        "leaf_value": _doubles(value[leaves]),
        "leaf_weight": np.zeros(len(leaves), dtype=int),
        "leaf_count": np.ones(len(leaves), dtype=int),
        "internal_value": np.zeros(len(inner), dtype=int),
        "internal_weight": np.zeros(len(inner), dtype=int),
        "internal_count": np.ones(len(inner), dtype=int),
        "is_linear": [0],
        "shrinkage": [1],
    }
    lines = "\n".join(f"{name}=" + " ".join(map(str, values)) for name, values in fields.items())
    return f"Tree={number}\n{lines}\n\n\n"


def _leaf(number: int, value: float) -> str:
    return (
        f"Tree={number}\nnum_leaves=1\nnum_cat=0\nsplit_feature=\nsplit_gain=\nthreshold=\n"
        f"decision_type=\nleft_child=\nright_child=\nleaf_value={value!r}\nleaf_weight=\n"
        "leaf_count=\ninternal_value=\ninternal_weight=\ninternal_count=\nis_linear=0\nshrinkage=1\n\n\n"
    )


def _doubles(values: Any) -> list[str]:
    return [repr(float(v)) for v in values]


def _model(trees: list[str], outputs: int, columns: int, *, averaged: bool) -> str:
    head = [
        "tree",
        "version=v4",
        f"num_class={outputs}",
        f"num_tree_per_iteration={outputs}",
        "label_index=0",
        f"max_feature_idx={columns - 1}",
        *(["average_output"] if averaged else []),
        "feature_names=" + " ".join(f"f{i}" for i in range(columns)),
        "feature_infos=" + " ".join(["none"] * columns),
        "tree_sizes=" + " ".join(str(len(t.encode())) for t in trees),
    ]
    return "\n".join(head) + "\n\n" + "".join(trees) + "end of trees\n\nparameters:\nend of parameters\n"
