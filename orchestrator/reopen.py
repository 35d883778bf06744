"""Opens an exported model as a user would and prints its logits: run in a fresh process to prove that an export loads.

`python -m orchestrator.reopen FOLDER < batch.json` reads `input_ids`, `attention_mask` and `token_type_ids` as lists
of rows and prints the logits, as JSON both.
"""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification

import methods.parts.checkpoint  # noqa: F401  importing it registers the compact model class


def main() -> None:
    """Prints the logits of the model in the folder named on the command line."""
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
    model.eval()
    batch = {name: torch.tensor(rows) for name, rows in json.load(sys.stdin).items()}
    with torch.no_grad():
        json.dump(model(**batch).logits.double().tolist(), sys.stdout)


if __name__ == "__main__":
    main()
