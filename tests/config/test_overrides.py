"""What Hydra refuses is said as one line that names what there is."""

import pytest

from apo.config.overrides import composed, overrides_checked
from apo.errors import UserError, refused

WRONG = [  # overrides, what is said
    ("lr=1e-9", "lr: there is no such setting; did you mean optimizer.lr"),
    ("steps=3", "did you mean max_steps"),
    ("sampler.high_row=3", "did you mean sampler.high_rows"),
    ("optimizer.learning_rate=1", "did you mean optimizer.lr?"),
    ("optimizer.x=1", "optimizer.x: there is no such setting; there are optimizer."),
    ("qqq=1", "qqq: there is no such setting; leave it out"),
    ("model.spec.heigth=3", "did you mean model.spec.height"),
    ("sampler=nope", "sampler=nope: there is no such option; there are apo"),
    ("sampler=uniforms", "did you mean uniform?"),
    ("stage=onlin", "did you mean online?"),
    ("ablation=wo_r", "did you mean wo_r"),
    ("stage=online sampler=3", "sampler=3: there is no such option"),
    ("sampler=null", "sampler=null: there is no such option"),
    ("logger=null", "logger=null: there is no such option"),
    ("stage=", "stage=: there is no such option; there are distill"),
    ("model=NULL", "there are tiny"),
    ("a=b=c", "a=b=c: this is no override that can be read"),
    ("max_steps", "max_steps: this is no override"),
    ("max_steps=[1", "max_steps=[1: this is no override"),
    ("~nothing", "nothing: there is no such setting"),
    ("+seed=3", "seed is there already: leave out the +"),
    ("seed=0,1", "seed=0,1: give one value, -m to run all of them"),
    ("stage=online module.pairs.candidate=3", "module.pairs.candidates"),
    ("model.spec=[1]", "model.spec"),
    ("trainer.devices.x=3", "trainer.devices.x: there is no such setting"),
    ("=3", "=3"),
    ("", "no override"),
]


@pytest.mark.parametrize("overrides, said", WRONG)
def test_hydras_refusals_are_one_line_with_what_there_is(overrides, said):
    words = overrides.split() or [""]
    with pytest.raises(UserError) as refusal:
        composed("train", words)
    message = str(refusal.value)
    assert said in message and "\n" not in message and len(message) < 300, message


def test_what_is_not_hydras_is_let_through():
    with pytest.raises(ValueError, match="ours"), overrides_checked("train", []):
        raise ValueError("ours")


@pytest.mark.parametrize(
    "error, said",
    [
        (UserError("data.path=x: no file"), "data.path=x: no file"),
        (ValueError("sampler.rows=0: give more"), "sampler.rows=0: give more"),
        (ValueError("math domain error"), "sampler: math domain error"),
        (ZeroDivisionError("by zero"), "sampler: ZeroDivisionError"),
        (KeyError("x"), "sampler: KeyError: 'x'"),
        (AttributeError("no\nsuch"), "sampler: AttributeError: no such"),
        (PermissionError(13, "Permission denied", "/x"), "sampler: /x: Permission denied; "),
        (RecursionError(), "sampler: RecursionError: without"),
    ],
)
def test_whatever_a_part_raises_is_one_line_that_names_it(error, said):
    with pytest.raises(UserError) as found, refused("sampler"):
        raise error
    assert str(found.value).startswith(said) and "\n" not in str(found.value)
