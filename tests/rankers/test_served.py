"""The served ranker against real server processes: the project's own, with videos and probabilities,
and transformers'.
"""

import json
import os
import re
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from apo.checks import ConfigError, check
from apo.data.domains import DomainRule, prompt_text
from apo.interfaces import Condition
from apo.parts import Setting
from apo.rankers import question
from apo.rankers.answer import LABELS, SWAP, standard_frames, swapped
from apo.rankers.question import Deadline
from apo.rankers.qwen3_vl import Qwen3VLRanker
from apo.rankers.reply import label_probabilities
from apo.rankers.served import ServedRanker, ServerGone, data_url, mp4
from apo.rankers.vlm import RankingVLM
from apo.tools.warm import Done, Warm
from apo.world import render
from tests.commands import ROOT, metrics, train, wait_for_steps
from tests.commands import adapter as adapter_files
from tests.rankers import answering
from tests.rankers.serving import apo_server, free_port, labelling_vlm, random_adapter, transformers_server
from tests.rankers.tiny import WORLD
from tests.test_configs import composed

DOMAINS = DomainRule({"digit": "digit"}, "scene", None)
FPS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelling_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return random_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def server(base, adapter, tmp_path_factory):
    process = apo_server(base, {"tuned": adapter}, tmp_path_factory.mktemp("logs") / "apo.log").start()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor, Condition]:
    """Three pairs of clips, two of digits and one of a scene."""
    rng = np.random.default_rng(0)
    videos = torch.stack([render.render(render.random_clip(rng)) for _ in range(6)])
    prompts = [
        "the red digit five moves up quickly",
        "the camera pans left slowly over the temple",
        "the blue digit one moves up slowly",
    ]
    return videos[:3], videos[3:], Condition(prompts, torch.empty(3, 0), torch.empty(3, 0))


def served(base_url: str, **changes) -> ServedRanker:
    settings = dict(
        base_url=base_url,
        model="base",
        domains=DOMAINS,
        frames=render.FRAMES,
        fps=FPS,
        media="video",
        swap_averaging=True,
        top_logprobs=20,
        timeout_s=30,
        retries=1,
        max_concurrency=2,
        hello_timeout_s=20,
        api_key_env=None,
    )
    return ServedRanker(**(settings | changes))


def in_process(base, adapter, frames: int = render.FRAMES) -> Qwen3VLRanker:
    return Qwen3VLRanker(str(base), adapter, DOMAINS, frames, FPS, "float32", "cpu", batch_size=3, swap_averaging=True)


def read(url: str) -> tuple[Tensor, dict]:
    return question.read(url, 512, 10**8, Deadline(60))


def sent(videos: Tensor) -> Tensor:
    """What arrives of videos that travel as mp4."""
    return torch.stack([read(data_url("video/mp4", mp4(video, FPS)))[0] for video in videos])


def test_the_server_answers_as_the_ranker_in_this_process(server, base, adapter, pairs):
    first, second, cond = pairs
    domains = DOMAINS(cond)
    for model, folder in (("base", None), ("tuned", str(adapter))):
        here = in_process(base, folder)
        there = served(server.base_url, model=model).probabilities(first, second, domains)
        assert_close(there, here.probabilities(sent(first), sent(second), domains), atol=1e-4, rtol=0)
        assert (there - here.probabilities(first, second, domains)).abs().max() < 0.1  # what mp4 loses
        assert there.std(0).max() > 1e-3  # it does look at the videos
    bare = served(server.base_url).probabilities(first, second, domains)
    assert (bare - there).abs().max() > 0.01  # and at the adapter


def test_more_frames_than_the_video_has_last_as_long(server, base, pairs):
    first, second, cond = pairs
    rate = FPS * 15 / (render.FRAMES - 1)
    video, metadata = read(served(server.base_url, frames=16).parts(first[0])[0]["video_url"]["url"])
    assert len(video) == 16 and metadata["fps"] == pytest.approx(rate)
    assert (video.float() - standard_frames(first[0], 16).float()).abs().mean() < 3
    there = served(server.base_url, frames=16).probabilities(first, second, DOMAINS(cond))
    here = in_process(base, None, frames=16).probabilities(first, second, DOMAINS(cond))
    assert (there - here).abs().max() < 0.15  # mp4, and time stamps that are not rounded to the video's frames


def test_exchanging_the_videos_exchanges_the_verdict(server, pairs):
    first, second, cond = pairs
    ranker = served(server.base_url)
    verdict, mirrored = ranker(first, second, cond), ranker(second, first, cond)
    assert mirrored.label.equal(swapped(verdict.label))
    assert_close(mirrored.confidence, verdict.confidence)
    assert (verdict.confidence >= 0.5).all() and set(verdict.label.tolist()) <= {1, 2, 3, 4}


def test_a_dead_server_stops_the_run_and_a_new_one_goes_on(base, adapter, pairs, tmp_path):
    first, second, cond = pairs
    process = apo_server(base, {"tuned": adapter}, tmp_path / "log").start()
    ranker = served(process.base_url)
    try:
        before = ranker(first, second, cond)
        process.kill()
        with pytest.raises(ServerGone, match=f"{process.base_url}.*2 attempts.*start it again.*same command"):
            ranker(first, second, cond)
        process.start()
        after = ranker(first, second, cond)
    finally:
        process.kill()
    assert after.label.equal(before.label) and after.confidence.equal(before.confidence)


@pytest.fixture(scope="module")
def warm():
    with Warm(ROOT) as warm:
        yield warm


@pytest.fixture
def online(wan22_folder, tmp_path):
    """(name, the server's address) -> overrides of an online run on prompts that are not the world's, each with its
    domain.
    """
    rows = [{"prompt": f"a man waves {i} times", "image": f"{i}.png", "domain": "human"} for i in range(3)]
    for row in rows:
        Image.new("RGB", (90, 70), (80, 200, 10)).save(tmp_path / row["image"])
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def overrides(run: str, base_url: str) -> list[str]:
        return [
            "stage=online",
            f"run={run}",
            f"hydra.run.dir={tmp_path}/{run}",
            "data=prompts",
            f"data.path={tmp_path}/prompts.jsonl",
            f"data.cache_dir={tmp_path}/cache",
            f"model.path={wan22_folder}",
            "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
            "ranker=served",
            f"ranker.base_url={base_url}",
            "ranker.model=base",
            "ranker.retries=0",
            "ranker.frames=9",
            "model.num_inference_steps=3",
            "max_steps=5",
            "sample_every_n_steps=0",
            "batch_size=1",
            "policy.lora.rank=2",
        ]

    return overrides


def test_an_online_run_on_ones_own_prompts_ends_with_an_adapter_though_its_server_dies(base, tmp_path, online, warm):
    process = apo_server(base, {}, tmp_path / "log").start()

    def ended(run: str) -> Done:
        return warm.run(["train.py", *online(run, process.base_url)], ROOT, 200)

    try:
        assert ended("whole").code == 0
        with subprocess.Popen(
            train(*online("cut", process.base_url)), cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as run:
            wait_for_steps(run, tmp_path / "cut", 1)
            process.kill()
            said = run.communicate(timeout=120)[1]
        assert run.returncode != 0 and "Traceback" not in said
        assert f"the ranking server at {process.base_url} (model base) gave no answer in 1 attempts" in said
        done = len(metrics(tmp_path / "cut"))
        assert torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == done < 5
        refused = ended("cut")
        assert (
            refused.code == 1
            and f"ranker.base_url={process.base_url} ranker.model=base: no server" in refused.lines[-1]
        )
        process.start()
        assert ended("cut").code == 0
    finally:
        process.kill()
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole") and len(metrics(tmp_path / "whole")) == 5
    assert adapter_files(tmp_path / "cut") == adapter_files(tmp_path / "whole") and adapter_files(tmp_path / "whole")


def test_a_server_that_goes_mad_ends_a_run_in_one_line_and_the_same_command_continues(tmp_path, online, warm):
    good, mad = (
        answering.completion("1", answering.token(-0.1)),
        {6: answering.completion("7"), 8: {"error": {"message": "out of memory"}}},
    )
    with answering.server(lambda count: (200, mad.get(count, good))) as (url, _):
        for said in (
            "the ranker gave no verdict .the ranker answered '7' where one",
            "no chat completion.*choices: Field required",
        ):
            ended = warm.run(["train.py", *online("mad", url)], ROOT, 120)
            assert ended.code == 1 and "Traceback" not in ended.output and re.search(said, ended.lines[-1]), (
                ended.output
            )
            assert len(metrics(tmp_path / "mad")) == 2  # hello 1, two steps of two questions each, and again hello
        assert warm.run(["train.py", *online("mad", url)], ROOT, 120).code == 0 and adapter_files(tmp_path / "mad")


def test_transformers_serve_ranks_pictures_by_its_answer_alone(base, pairs, tmp_path):
    first, second, cond = pairs
    process = transformers_server(base, tmp_path / "log").start()
    ranker = served(process.base_url, model=str(base), media="frames", frames=4)
    try:
        ranker.check(Setting(WORLD))
        there = ranker.probabilities(first, second, DOMAINS(cond))
        with pytest.raises(ValueError, match="ranker.model=other.*HTTP 400.*pinned"):
            served(process.base_url, model="other").check(Setting(WORLD))
    finally:
        process.kill()
    vlm = RankingVLM(str(base), "float32", 4, FPS)
    orders = [
        [answer(vlm, *order, domain) for order in ((a, b), (b, a))]
        for a, b, domain in zip(first, second, DOMAINS(cond))
    ]
    here = torch.stack([(one_hot(given) + one_hot(mirrored)[list(SWAP)]) / 2 for given, mirrored in orders])
    assert there.equal(here)
    assert ranker.top_logprobs == 20  # asked for, and not given


@torch.no_grad()
def answer(vlm: RankingVLM, first: Tensor, second: Tensor, domain: str) -> str:
    """The likeliest next token when the videos are shown as pictures."""
    shown = [standard_frames(video, 4) for video in (first, second)]
    content = [{"type": "text", "text": "Video 1: "}, *[{"type": "image"}] * 4, {"type": "text", "text": "Video 2: "}]
    content += [*[{"type": "image"}] * 4, {"type": "text", "text": prompt_text(domain)}]
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = vlm.processor(
        text=[text], images=[frame.permute(1, 2, 0).numpy() for frame in torch.cat(shown)], return_tensors="pt"
    )
    return vlm.processor.decode(vlm.model(**inputs).logits[0, -1].argmax())


def one_hot(label: str) -> Tensor:
    return torch.eye(4)[LABELS.index(label)]


def test_check_says_what_is_wrong_before_a_run(server, monkeypatch, tmp_path):
    served(server.base_url).check(Setting(WORLD))
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(
        ValueError,
        match=f"ranker.base_url={nowhere} ranker.model=base: no server answers there.*`vllm serve base` would",
    ):
        served(nowhere).check(Setting(WORLD))
    with pytest.raises(ValueError, match="ranker.model=other.*HTTP 404.*it offers base, tuned"):
        served(server.base_url, model="other").check(Setting(WORLD))
    monkeypatch.delenv("RANKER_KEY", raising=False)
    with pytest.raises(ValueError, match="ranker.api_key_env=RANKER_KEY: this variable is not set"):
        served(server.base_url, api_key_env="RANKER_KEY").check(Setting(WORLD))
    with pytest.raises(ConfigError, match=f"ranker.base_url={nowhere}"):
        check(composed("stage=online", "ranker=served", f"ranker.base_url={nowhere}"), tmp_path)
    check(
        composed("stage=online", "ranker=served", f"ranker.base_url={server.base_url}", "ranker.model=tuned"), tmp_path
    )


def test_a_refused_question_says_why(server, pairs):
    first, second, cond = pairs
    with pytest.raises(ValueError, match="refuses the question.*image_url.*send text and video_url"):
        served(server.base_url, media="frames")(first, second, cond)


def reply(content: str, alternatives: dict[str, float] | None) -> bytes:
    """As vLLM and SGLang write it. alternatives: token -> probability."""
    likeliest = [{"token": t, "logprob": float(np.log(p))} for t, p in (alternatives or {}).items()]
    logprobs = None if alternatives is None else {"content": [likeliest[0] | {"top_logprobs": likeliest}]}
    message = {"role": "assistant", "content": content}
    return json.dumps(
        {"choices": [{"index": 0, "finish_reason": "length", "message": message, "logprobs": logprobs}]}
    ).encode()


def test_probabilities_are_those_of_the_four_labels_among_themselves():
    some = label_probabilities(reply("3", {"3": 0.4, "The": 0.2, "1": 0.1, " 3": 0.1, "7": 0.05}))
    assert_close(some, torch.tensor([1 / 6, 0, 5 / 6, 0]))
    assert_close(label_probabilities(reply("2", None)), torch.tensor([0.0, 1, 0, 0]))
    assert_close(label_probabilities(reply("4.", {"4.": 1.0})), torch.tensor([0.0, 0, 0, 1]))
    for answered in ("5", "The first", ""):
        with pytest.raises(ValueError, match=f"the ranker answered '{answered}'"):
            label_probabilities(reply(answered, {"1": 0.5}))


def test_the_key_travels_and_stays_out_of_the_config(server, monkeypatch):
    monkeypatch.setenv("RANKER_KEY", "secret")
    ranker = served(server.base_url, api_key_env="RANKER_KEY")
    assert ranker.client().api_key == os.environ["RANKER_KEY"]
    assert "secret" not in repr(ranker)
