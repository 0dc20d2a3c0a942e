# Diffusion-APO. `make help` lists the targets.
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check # errors alone
ARGS ?=
# what train.py is given that evaluations and reports have to be told, too
MODEL = $(filter model=% model.%,$(ARGS))

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: .venv/installed ## the environment, in .venv

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install torch==$$(sed -n 's/^torch==//p' requirements.txt)
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps --editable .
	touch $@

demo: install ## align the shipped baseline with offline Diffusion-APO; before and after, in pictures
	$(BIN)/python evaluate.py run=demo stage=null against=null $(MODEL)
	$(BIN)/python train.py run=demo stage=offline sampler=apo data.count=512 $(ARGS)
	$(BIN)/python evaluate.py run=demo stage=offline against=baseline $(MODEL)

WORKERS ?= 2
test: install ## every test, in two processes (WORKERS=N for more)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

ci: lint docs commands ## what CI runs before the tests

docs: .venv/docs ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/docs: docs/requirements.txt | install
	$(PIP) install -r docs/requirements.txt
	touch $@

commands: install ## every command of README and docs in a fresh clone, at a small size
	$(BIN)/python -m apo.tools.docs

real: install ## fetch real clips, make preference pairs of them, train offline APO on them with the tiny model
	$(BIN)/python -m apo.data.real $(MODEL)
	$(BIN)/python train.py run=real stage=offline data=pairs data.path=outputs/real/manifest.jsonl model.max_sequence_length=64 $(ARGS)

world: install ## build the shipped checkpoint from scratch (hours; resumable)
	$(BIN)/python -m apo.world.build
	$(BIN)/python -m apo.world.build.verdicts

ranker-world: install ## train the world's two tiny Qwen3-VL rankers from scratch, and judge them (hours; resumable)
	$(BIN)/python -m apo.world.build.ranker
	$(BIN)/python -m apo.reports.ranker ranker=by_domain
	$(BIN)/python -m apo.reports.ranker --name no_slow_motion ranker=by_domain \
		ranker.rankers.digit.adapter=outputs/ranker_world/digit_control/adapter \
		ranker.rankers.scene.adapter=outputs/ranker_world/scene_control/adapter
	$(BIN)/python -m apo.reports.ranker --name base ranker=qwen3_vl

bench: install ## optimizer step against its bare forward and backward passes
	$(BIN)/python -m apo.reports.bench $(ARGS)

# Studies are files of experiments/study: `make table1 ARGS="--jobs 2"` runs two commands at a time, --print only shows them
STUDY := $(BIN)/python -m apo.study

table1: install ## Table 1 and the window ablations on the world: all arms, three seeds
	$(STUDY) table1 $(ARGS)

online: install ## online and half-online stages on the world, with annotators that err: three seeds
	$(STUDY) online $(ARGS)

cheaper: install ## what cheaper candidates cost in quality: cached blocks, fewer solver steps, two windows a pair, ranking ahead, a student's
	$(STUDY) cheaper $(ARGS)

search: install ## the hyperparameters of Table 1's arms, by the same search for each on validation conditions
	$(STUDY) search $(ARGS)

SEEDS ?= 0
curriculum: install ## the five stages, one after another, and their report (under an hour; SEEDS="0 1 2" for three seeds; resumes)
	$(STUDY) curriculum --seeds "$(SEEDS)" $(ARGS)

curriculum-quick: install ## the same with few steps and videos, to see it run (under 10 minutes)
	$(STUDY) curriculum_quick --seeds "$(SEEDS)" $(ARGS)

rsro: install ## what random shift and offset are worth after distillation: two arms, three seeds
	$(STUDY) rs_ro $(ARGS)

identical: install ## whether training is bit for bit what it was: a few steps of every stage (10 minutes)
	$(BIN)/python -m apo.tools.identical $(ARGS)

lint: install ## ruff: check and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

.PHONY: help install demo test ci docs commands real world ranker-world bench table1 online cheaper search curriculum curriculum-quick rsro lint identical
