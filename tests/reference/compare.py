"""How far the reference is from recorded golden sets: python3 compare.py DIRECTORY...

Each directory holds a checkpoint, cases.json and the .npy files described in make_golden.py.
Exits with 1 if a case is further off than the limits below.
"""

import json
import sys
from pathlib import Path

import numpy as np

from cogvlm2 import CogVLM2, experts_of, positions_of

FEATURES_LIMIT = 1e-4
LOGITS_LIMIT = 1e-3


def compare_case(model, directory, name, case):
    """(features error, logits error, whether tokens, positions and experts are equal)."""
    ids, types, rope = case["input_ids"], case["token_type_ids"], case["rope"]
    features, features_error = None, 0.0
    if 1 in types:
        features = model.features(np.load(directory / f"{name}.pixels.npy"))
        features_error = np.abs(features - np.load(directory / f"{name}.features.npy")).max()
    rows = case.get("logit_rows", list(range(len(ids))))
    logits = model.logits(ids, types, features, rope)[rows]
    logits_error = np.abs(logits - np.load(directory / f"{name}.logits.npy")).max()
    tokens, _ = model.greedy(ids, types, features, rope, len(case["greedy"]))
    same = (
        tokens == case["greedy"]
        and positions_of(types).tolist() == case["position_ids"]
        and experts_of(types).astype(int).tolist() == case["expert_mask"]
    )
    return features_error, logits_error, same


def main():
    failed = False
    for directory in map(Path, sys.argv[1:]):
        model = CogVLM2.load(directory)
        for name, case in json.loads((directory / "cases.json").read_text()).items():
            features_error, logits_error, same = compare_case(model, directory, name, case)
            ok = features_error <= FEATURES_LIMIT and logits_error <= LOGITS_LIMIT and same
            failed |= not ok
            print(
                f"{directory.name + '/' + name:34} features {features_error:.1e}  "
                f"logits {logits_error:.1e}  tokens {'equal' if same else 'DIFFER'}"
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
