"""What an OpenAI-compatible server answered, read from its bytes: nothing of it is taken on trust."""

import math
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from apo.errors import UserError
from apo.rankers.answer import LABELS, parse_label

ROUNDING = 1e-2  # by which a probability may exceed 1


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Alternative(Strict):
    token: str
    logprob: Annotated[float, Field(le=ROUNDING)]


class Token(Alternative):
    top_logprobs: list[Alternative] | None = None


class Logprobs(Strict):
    content: list[Token] | None = None


class Message(Strict):
    content: str


class Choice(Strict):
    message: Message
    logprobs: Logprobs | None = None


class Reply(Strict):
    """As much of a chat completion as a ranker reads."""

    choices: Annotated[list[Choice], Field(min_length=1)]

    @property
    def answer(self) -> str:
        return self.choices[0].message.content

    def alternatives(self) -> list[Alternative]:
        """Of the answer's first token; none where the server gives no probabilities. UserError if they are of something
        else.
        """
        logprobs = self.choices[0].logprobs
        if logprobs is None or not logprobs.content:
            return []
        if not self.answer.strip().startswith((token := logprobs.content[0].token).strip()):
            raise UserError(
                f"the ranking server answered {self.answer[:80]!r} with the probabilities of {token[:80]!r}: mend the "
                "server, or give "
                "ranker.top_logprobs=null, which takes answers as certain"
            )
        return logprobs.content[0].top_logprobs or []


def label_probabilities(body: bytes) -> Tensor:
    """(4,) of the labels among themselves from the answer token's most likely alternatives; 1 and 0s where none came.

    UserError says what came if it is no chat completion, or its answer no label.
    """
    try:
        reply = Reply.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        start = " ".join(body[:120].decode(errors="replace").split())
        raise UserError(
            f"the ranking server's answer is no chat completion ({place}: {first['msg']}), it begins with {start!r}"
        ) from None
    label = parse_label(reply.answer)
    found = torch.zeros(len(LABELS), dtype=torch.float64)
    alternatives = reply.alternatives()
    if (total := sum(math.exp(a.logprob) for a in alternatives)) > 1 + ROUNDING:
        raise UserError(
            f"the ranking server's probabilities sum to {total:.3g}: they are no probabilities of one token"
        )
    for alternative in alternatives:
        if alternative.token.strip() in LABELS:
            found[LABELS.index(alternative.token.strip())] += math.exp(alternative.logprob)
    if found.sum() == 0:
        found[label - 1] = 1
    return (found / found.sum()).float()
