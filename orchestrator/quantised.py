"""What 8 bits cost: an ONNX graph and its quantised copy measured on the sweep's own dev set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.parts.evaluate import predict
from methods.parts.run import LocalRun
from methods.parts.tokens import encode
from orchestrator import figures, graphs
from orchestrator.evaluation import with_errors
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord
from orchestrator.reopen import INT8, ONNX
from orchestrator.subjects import Data, trial_subjects


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantised:
    """Both graphs on dev, and their sizes."""

    before: Mapping[str, float]
    """Every metric of the graph in fp32."""
    before_se: Mapping[str, float]
    after: Mapping[str, float]
    """The same of the quantised graph."""
    after_se: Mapping[str, float]
    max_difference: float
    """Largest difference of logits between the two, over dev."""
    bytes_before: int
    bytes_after: int

    def lines(self) -> list[str]:
        """The measurement for people."""
        sizes = (figures.cost("bytes", size) for size in (self.bytes_before, self.bytes_after))
        metrics = [
            f"  {name}: {figures.score(found, self.before_se[name])} -> "
            f"{figures.score(self.after[name], self.after_se[name])}"
            for name, found in self.before.items()
        ]
        return [f"int8 on dev ({' -> '.join(sizes)}; logits differ by up to {self.max_difference:.2g}):", *metrics]


def quantise(folder: SweepFolder, record: TrialRecord, exported: Path) -> Quantised:
    """Adds a quantised graph to an ONNX export, and measures both.

    Raises:
        ValueError: the sweep's data cannot be read any more.
    """
    graphs.quantise(exported)
    subject = trial_subjects(folder, [record], Data(), "dev")[0]
    run = LocalRun(folder.path, store=folder.store, device="cpu")
    encoded = encode(subject.task, "dev", subject.folder, run)
    labels = np.asarray(encoded.labels)
    one, other = (predict(graphs.OnnxModel(exported / name), encoded, run) for name in (ONNX, INT8))
    before, before_se = with_errors(subject.task, one, labels)
    after, after_se = with_errors(subject.task, other, labels)
    return Quantised(
        before=before,
        before_se=before_se,
        after=after,
        after_se=after_se,
        max_difference=float(np.abs(one - other).max()),
        bytes_before=(exported / ONNX).stat().st_size,
        bytes_after=(exported / INT8).stat().st_size,
    )
