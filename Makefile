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

ranker-world: install ## train the world's two tiny Qwen3-VL rankers from scratch, and judge them (hours; resumable)
	$(BIN)/python -m apo.world.build.ranker
	$(BIN)/python -m apo.reports.ranker ranker=by_domain
	$(BIN)/python -m apo.reports.ranker --name no_slow_motion ranker=by_domain \
		ranker.rankers.digit.adapter=outputs/ranker_world/digit_control/adapter \
		ranker.rankers.scene.adapter=outputs/ranker_world/scene_control/adapter
	$(BIN)/python -m apo.reports.ranker --name base ranker=qwen3_vl

bench: install ## optimizer step against its bare forward and backward passes
	$(BIN)/python -m apo.reports.bench $(ARGS)

table1: install ## Table 1 and the window ablations on the world: all arms, three seeds
	$(BIN)/python train.py -m paper=table1 $(ARGS)
	$(BIN)/python evaluate.py run=table1 stage='ablation_*' videos=0 $(MODEL)
	$(BIN)/python -m apo.reports.table1

online: install ## online and half-online stages on the world, with annotators that err: three seeds
	$(BIN)/python train.py -m paper=online $(ARGS)
	$(BIN)/python evaluate.py run=online stage='ranker*' videos=0 $(MODEL)
	$(BIN)/python train.py -m paper=online_vlm $(ARGS)
	$(BIN)/python evaluate.py run=online_vlm stage='seed_*' videos=0 $(MODEL)
	$(BIN)/python train.py -m paper=half_online $(ARGS)
	for seed in 0 1 2; do $(BIN)/python evaluate.py run=half_online stage=seed_$$seed videos=0 \
		against=outputs/online/ranker.error_rate_0.0-seed_$$seed $(MODEL) || exit 1; done
	$(BIN)/python train.py run=online_no_window hydra.run.dir=outputs/online_no_window/seed_0 stage=online ablation=no_window max_steps=200 \
		sample_every_n_steps=0 $(ARGS)
	$(BIN)/python evaluate.py run=online_no_window stage=seed_0 videos=0 $(MODEL)
	$(BIN)/python -m apo.reports.online

cheaper: install ## what cheaper candidates cost in quality: cached blocks, fewer solver steps, two windows a pair, ranking ahead, a student's
	$(BIN)/python train.py -m paper=online ranker.error_rate=0.0 $(ARGS)
	$(BIN)/python train.py -m paper=cheaper $(ARGS)
	$(BIN)/python train.py -m paper=cheaper run=cheaper_at_scale cheaper=fewer_steps,two_windows max_steps=334 $(ARGS)
	$(BIN)/python train.py -m paper=cheaper run=cheaper_at_scale cheaper=both max_steps=500 $(ARGS)
	$(BIN)/python train.py -m paper=cheaper run=cheaper_at_scale cheaper=at_scale max_steps=334 module.pairs.rollout.num_inference_steps=5 $(ARGS)
	$(BIN)/python train.py -m paper=distilled_baseline $(ARGS)
	$(BIN)/python train.py -m paper=cheaper_student $(ARGS)
	$(BIN)/python evaluate.py run=cheaper stage='*' videos=0 $(MODEL)
	$(BIN)/python evaluate.py run=cheaper_at_scale stage='*' videos=0 $(MODEL)
	$(BIN)/python evaluate.py run=cheaper stage='cheaper_guided*' videos=0 $(GUIDED) $(MODEL)
	$(BIN)/python evaluate.py run=online stage='ranker.error_rate_0.0*' videos=0 $(MODEL)
	$(BIN)/python evaluate.py run=online stage='ranker.error_rate_0.0*' videos=0 $(GUIDED) $(MODEL)
	$(BIN)/python -m apo.reports.cheaper

search: install ## the hyperparameters of Table 1's arms, by the same search for each on validation conditions
	$(BIN)/python -m apo.reports.search $(ARGS)

STAGES := 1_online 2_half_online 3_offline 4_distill 5_distill_dpo
SEEDS ?= 0
GUIDED := guidance=cfg_stg results=eval_guided

# 1: folder of experiments/curriculum with a slash, or nothing; 2: run; 3: overrides of the evaluation
define run-curriculum
	for seed in $(SEEDS); do for stage in $(STAGES); do \
		$(BIN)/python train.py curriculum=$(1)$$stage seed=$$seed $(ARGS) || exit 1; done; done
	$(BIN)/python evaluate.py run=$(2) stage=null against=null videos=0 $(3)
	$(BIN)/python evaluate.py run=$(2) stage=null against=null videos=0 $(3) $(GUIDED)
	for seed in $(SEEDS); do \
		$(BIN)/python evaluate.py run=$(2)/seed_$$seed stage='*' against=null videos=0 $(3) || exit 1; \
		$(BIN)/python evaluate.py run=$(2)/seed_$$seed stage='*line' against=null videos=0 $(3) $(GUIDED) || exit 1; done
	$(BIN)/python -m apo.reports.distill --run $(2)/seed_$(firstword $(SEEDS)) $(3)
	$(BIN)/python -m apo.reports.sheets --run $(2)/seed_$(firstword $(SEEDS)) $(3)
	$(BIN)/python -m apo.reports.curriculum --run $(2)
endef

curriculum: install ## the five stages, one after another, and their report (under an hour; SEEDS="0 1 2" for three seeds; resumes)
	$(call run-curriculum,,curriculum,$(MODEL))

curriculum-quick: install ## the same with few steps and videos, to see it run (under 10 minutes)
	$(call run-curriculum,quick/,curriculum_quick,conditions.count=32 $(MODEL))

rsro: install ## what random shift and offset are worth after distillation: two arms, three seeds
	$(BIN)/python train.py -m paper=table1 ablation=apo,wo_rs_ro $(ARGS)
	$(BIN)/python train.py -m paper=rs_ro_distilled $(ARGS)
	for arm in apo wo_rs_ro; do for how in "" "$(GUIDED)"; do \
		$(BIN)/python evaluate.py run=table1 stage="ablation_$$arm-seed_*" videos=0 $$how $(MODEL) || exit 1; done; done
	$(BIN)/python evaluate.py run=rs_ro_distilled stage='arm_*' against=null videos=0 $(MODEL)
	$(BIN)/python -m apo.reports.rs_ro

identical: install ## whether training is bit for bit what it was: a few steps of every stage (10 minutes)
	$(BIN)/python -m apo.tools.identical $(ARGS)

lint: install ## ruff: check and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

.PHONY: help install demo test ci docs commands real world ranker-world bench table1 online cheaper search curriculum curriculum-quick rsro lint identical
