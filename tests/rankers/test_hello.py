"""The first question to a ranking server: whatever is wrong with its answer is said before a policy is loaded, in one
line.
"""

import json
import time

import pytest
import yaml

from apo.data.domains import DomainRule
from apo.errors import UserError
from apo.parts import Setting
from apo.places import ROOT
from apo.rankers.served import ServedRanker, ServerGone
from apo.resume import differences
from tests.rankers.answering import completion, server, token
from tests.rankers.tiny import WORLD, world_pairs

HTML = b"<!doctype html><html>\n<body>\nLogin</body></html>"
WRONG = {  # name -> (status, body, what is said)
    "a page": (200, HTML, "no chat completion .*<!doctype html>"),
    "nothing": (200, b"", "no chat completion"),
    "cut JSON": (200, b'{"choices": [', "no chat completion"),
    "a list": (200, [], "no chat completion"),
    "no choices": (200, {"choices": []}, "choices: List should have at least 1 item"),
    "choices null": (200, {"choices": None}, "choices"),
    "an error of its own": (200, {"error": {"message": "out of memory"}}, "choices: Field required.*out of memory"),
    "a choice that is a number": (200, {"choices": [3]}, "choices.0"),
    "no message": (200, {"choices": [{}]}, "choices.0.message"),
    "null content": (200, completion(None), "message.content"),
    "content a list": (200, completion(["1"]), "message.content"),
    "label 7": (200, completion("7"), "answered '7' where one of 1, 2, 3, 4"),
    "a speech": (200, completion("As an AI\nI"), "answered 'As an AI"),
    "a positive logprob": (200, completion("1", token(2.0)), "logprob"),
    "an infinite one": (200, completion("1", token(float("-inf"))), "logprob"),
    "NaN": (200, completion("1", token(float("nan"))), "logprob"),
    "a text": (200, completion("1", token("-1")), "logprob"),
    "null": (200, completion("1", token(None)), "logprob"),
    "a token that is a number": (200, completion("1", token(-1.0, 1)), "token"),
    "of another token": (
        200,
        completion("1", token(-0.1, "a")),
        "answered '1' with the probabilities of 'a': .*top_logprobs=null",
    ),
    "too much": (
        200,
        completion("1", token(0.0, top_logprobs=[{"token": t, "logprob": 0.0} for t in "123"])),
        "sum to 3",
    ),
    "a redirect": (302, b"", "HTTP 302.*sends to http://elsewhere/v1; give that address"),
    "not found": (404, HTML, "HTTP 404.*most servers' address ends in /v1"),
    "a wrong key": (401, {"error": "no"}, "refuses the key"),
    "a refusal": (400, {"error": {"message": "videos\nare not taken"}}, "HTTP 400.*videos.*are not taken"),
    "a fault": (500, HTML, "HTTP 500"),
    "busy for ever": (503, {"error": {"message": "64 are waiting"}}, "hello_timeout_s=0.6 .*503.*64 are waiting"),
    "silence": (None, "silence", "hello_timeout_s=0.6"),
    "a letter now and then": (None, "dribble", "hello_timeout_s=0.6"),
    "no HTTP": (None, "noise", "no server answers there"),
    "hanging up": (None, "hang up", "no server answers there"),
    "no end": (None, "endless", "longer than 16 MiB|hello_timeout_s"),
}


def ranker(base_url, **changes) -> ServedRanker:
    settings = dict(
        base_url=base_url,
        model="base",
        domains=DomainRule({}, "digit", None),
        frames=3,
        fps=8.0,
        media="video",
        swap_averaging=True,
        top_logprobs=20,
        timeout_s=2.0,
        retries=0,
        max_concurrency=2,
        hello_timeout_s=0.6,
        api_key_env=None,
    )
    return ServedRanker(**settings | changes)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_an_answer_is_said_at_once_in_one_line(name):
    status, body, said = WRONG[name]
    with server(lambda _: (status, body)) as (url, _):
        began = time.monotonic()
        with pytest.raises(UserError, match=said) as raised:
            ranker(url, hello_timeout_s=0.6 if "=0.6" in said else 5.0).check(Setting(WORLD))
        assert time.monotonic() - began < 6
    said = str(raised.value)
    assert (
        f"ranker.base_url={url} ranker.model=base: " in said
        and "; correct ranker.base_url, or start" in said
        and "\n" not in said
    )


def test_a_good_answer_and_one_after_a_busy_moment_are_taken_and_the_question_is_a_real_one():
    good = completion("1", token(-0.1))
    with server(lambda count: (503, b"") if count == 1 else (200, good)) as (url, http):
        ranker(url, hello_timeout_s=5.0).check(Setting(WORLD))
    asked = json.loads(http.asked[-1])
    kinds = [part["type"] for part in asked["messages"][0]["content"]]
    assert (
        len(http.asked) == 2
        and kinds == ["text", "video_url", "text", "video_url", "text"]
        and asked["top_logprobs"] == 20
    )


@pytest.mark.parametrize(
    "name", ["a page", "label 7", "a positive logprob", "a redirect", "no choices", "a letter now and then"]
)
def test_the_same_in_the_middle_of_a_run_is_one_line_too(name):
    status, body, said = WRONG[name]
    first, second, cond = world_pairs(2)
    with server(lambda _: (status, body)) as (url, _):
        with pytest.raises(
            UserError, match="1 attempts|HTTP 302" if name in ("a letter now and then", "a redirect") else said
        ) as raised:
            ranker(url, timeout_s=0.5)(first, second, cond)
    assert "\n" not in str(raised.value)


def test_a_question_is_repeated_when_the_server_says_so_and_not_when_it_refuses():
    first, second, cond = world_pairs(1)
    with server(lambda count: (429, b"") if count % 2 else (200, completion("2"))) as (url, http):
        assert ranker(url, retries=1, max_concurrency=1, swap_averaging=False)(first, second, cond).label.tolist() == [
            2
        ]
    with server(lambda _: (400, b"")) as (url, http):
        with pytest.raises(UserError, match="refuses the question"):
            ranker(url, retries=5, max_concurrency=1)(first, second, cond)
        assert len(http.asked) <= 2
    with server(lambda _: (503, b"")) as (url, http):
        with pytest.raises(ServerGone, match="gave no answer in 2 attempts .HTTP 503"):
            ranker(url, retries=1, swap_averaging=False)(first, second, cond)
        assert len(http.asked) == 2


def test_a_run_goes_on_when_its_server_has_moved_but_not_with_another_model():
    free = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())["resume"]["may_change"]
    before = {"base_url": "http://a/v1", "timeout_s": 120, "model": "human"}
    moved = before | {"base_url": "http://b/v1", "timeout_s": 60, "hello_timeout_s": 20}
    assert differences(before, moved, "module.pairs.ranker", free) == []
    assert differences({"human": before}, {"human": moved}, "ranker.rankers", free) == []
    assert differences(before, before | {"model": "other"}, "ranker", free) == ["ranker.model: human -> other"]


@pytest.mark.parametrize(
    "url",
    [
        3,
        None,
        "",
        "http://",
        "ftp://host/v1",
        "localhost:8000/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http:///v1",
        "file:///etc/passwd",
        "http://host/v1?key=1",
        ["http://host"],
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(
        UserError, match="ranker.base_url=.*: give a server's address, such as http://localhost:8000/v1"
    ):
        ranker(url)
