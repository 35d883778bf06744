"""The teacher's training."""

from tests.doubles.papers.finetune import RECIPES, Config, layout

__all__ = ["RECIPES", "Config", "layout"]
