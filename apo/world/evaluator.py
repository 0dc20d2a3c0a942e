"""`evaluator=world`: the oracle measures the embedded world's videos."""

from torch import Tensor

from apo.evaluators.measured import MeasuringEvaluator
from apo.interfaces import Condition, Criterion
from apo.parts import Setting
from apo.world.conditions import require_sentences, require_world
from apo.world.oracle import measure


class WorldEvaluator(MeasuringEvaluator):
    """See `apo.world.oracle.Measurement` for the columns."""

    columns = (
        "distorted",
        "cause",
        "followed",
        "direction_followed",
        "speed_followed",
        "speed",
        "subject_consistency",
        "background_consistency",
        "motion_smoothness",
    )
    criteria = (
        Criterion("distortion_rate", "distorted", better=False, good="clean", bad="distorted", reason="cause"),
        Criterion("instruction_following", "followed", better=True, good="following", bad="not following"),
    )

    def check(self, setting: Setting) -> None:
        """UserError unless a model's videos have the world's size and the prompts are its sentences."""
        require_world(setting.spec, "evaluator=world", "evaluator=none conditions=prompts conditions.path=MANIFEST")
        require_sentences(setting.rows, "evaluator=world", "evaluator=none")

    def measure(self, videos: Tensor, cond: Condition) -> dict[str, Tensor | list]:
        """The condition's first frames in pixels are needed."""
        if cond.frame is None:
            raise ValueError("the condition has no first frame in pixels: set Condition.frame to (B, 3, 64, 64) uint8")
        found = measure(videos, cond.prompt, cond.frame.to(videos.device))
        return {name: getattr(found, name) for name in self.columns}
