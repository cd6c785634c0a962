# make demo      set up .venv, draw scenes, train Mask R-CNN with a small DAT on them, test it, save pictures of what it
#                predicts and of the points that it samples
# make demo-seg  the same with UperNet and mIoU
# make demo-crossformer, demo-crossformer-seg, demo-biformer, demo-biformer-seg, demo-debiformer, demo-debiformer-seg
#                RetinaNet and UperNet with a small CrossFormer, BiFormer or DeBiFormer
# make demo-pretrain
#                a classifier of single shapes; RetinaNet with a small DAT for one epoch, with and without its weights
# make setup     set up .venv alone
# make test      set up .venv, run the tests, two at a time (make test-slow for the long ones, make test-gpu for those
#                of a GPU)
# make lint      set up .venv, check style and types
# make docs      set up .venv, make a site of the pages in build/site; any warning ends it
# make notebook  set up .venv, run docs/tour.ipynb and keep its outputs in it
#
# PYTHON  interpreter that makes .venv, 3.10 or newer
# TORCH   what to install as torch; 2.13.0 is the version the figures in the README were measured with
# STACK   the OpenMMLab packages: onedl, the maintained ones, or openmmlab, the classic ones, in .venv-openmmlab

PYTHON ?= python3
TORCH ?= torch==2.13.0
STACK ?= onedl
VENV := $(if $(filter onedl,$(STACK)),.venv,.venv-$(STACK))
BIN := $(VENV)/bin
PRETRAIN := $(if $(filter onedl,$(STACK)),pretrain,openmmlab-pretrain)
MMCV := $(if $(filter onedl,$(STACK)),onedl-mmcv,'mmcv>=2.1,<2.2')
# mmcv 2.1 is built with pkg_resources, which later ones lack
SETUPTOOLS := $(if $(filter onedl,$(STACK)),setuptools,'setuptools<82')
SHELL := /bin/bash -o pipefail
# long tests lie together: an idle process takes some of the other's
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
SCENES := data/scenes/annotations/instances_validation.json
SHAPES := data/shapes/val/cross/00499.png
SHOWN := 00003

# Keep them although nothing names them as a goal.
.PRECIOUS: work_dirs/%/trained work_dirs/%/test.log
.PHONY: demo demo-seg demo-crossformer demo-crossformer-seg demo-biformer demo-biformer-seg demo-debiformer
.PHONY: demo-debiformer-seg demo-pretrain test test-slow test-gpu lint docs notebook setup clean

demo: work_dirs/mask-rcnn_dat_scenes/attention/$(SHOWN)/grid.png
demo-seg: work_dirs/upernet_dat_scenes/attention/$(SHOWN)/grid.png
demo-crossformer: work_dirs/retinanet_crossformer_scenes/attention/$(SHOWN)/grid.png
demo-crossformer-seg: work_dirs/upernet_crossformer_scenes/attention/$(SHOWN)/grid.png
demo-biformer: work_dirs/retinanet_biformer_scenes/attention/$(SHOWN)/grid.png
demo-biformer-seg: work_dirs/upernet_biformer_scenes/attention/$(SHOWN)/grid.png
demo-debiformer: work_dirs/retinanet_debiformer_scenes/attention/$(SHOWN)/grid.png
demo-debiformer-seg: work_dirs/upernet_debiformer_scenes/attention/$(SHOWN)/grid.png
demo demo-seg demo-crossformer demo-crossformer-seg demo-biformer demo-biformer-seg demo-debiformer demo-debiformer-seg:
	@grep -E '^(coco/|aAcc |mIoU |mAcc )' $(<:/attention/$(SHOWN)/grid.png=/test.log)
	@echo "pictures of predictions: $(<:/attention/$(SHOWN)/grid.png=/pictures)"
	@echo "what the model attends to: $<"

demo-pretrain: work_dirs/classifier_dat_shapes/test.log
	$(BIN)/python tools/ablate.py --seeds 0 1 2 --work-dir work_dirs/pretrain --config \
		configs/demo/retinanet_dat_scenes_1e.py configs/demo/retinanet_dat_scenes_1e_from-shapes.py
	@grep -E '^accuracy' $<

work_dirs/classifier_dat_shapes/trained: $(SHAPES)

work_dirs/%/attention/$(SHOWN)/grid.png: work_dirs/%/test.log
	$(BIN)/python tools/visualize.py data/scenes/images/validation/$(SHOWN).png configs/demo/$*.py \
		"$$(cat work_dirs/$*/last_checkpoint)" --out-dir work_dirs/$*/attention

work_dirs/%/test.log: work_dirs/%/trained
	$(BIN)/python tools/test.py configs/demo/$*.py "$$(cat work_dirs/$*/last_checkpoint)" \
		--show-dir work_dirs/$*/pictures | tee $@.part
	mv $@.part $@

# An interrupted training goes on where it stopped; a finished one is done again when its config changes.
work_dirs/%/trained: configs/demo/%.py $(wildcard configs/_base_/*/*.py) $(SCENES) | $(VENV)/ready
	if [ -e $@ ]; then rm -r work_dirs/$*; fi
	$(BIN)/python tools/train.py $< --resume
	touch $@

$(SCENES): mmattn/datasets/scenes.py | $(VENV)/ready
	$(BIN)/python -m mmattn.datasets.scenes data/scenes

$(SHAPES): mmattn/datasets/shapes.py | $(VENV)/ready
	$(BIN)/python -m mmattn.datasets.shapes data/shapes

test: $(VENV)/ready
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/ready
	$(PYTEST) -m slow

# alone on the GPU; TORCH is to be a build for CUDA
test-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu -rs

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/ready
	$(BIN)/python -m sphinx -q -W --keep-going docs build/site
	@echo "the first page: build/site/index.html"

notebook: $(VENV)/ready
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/jupyter execute --inplace docs/tour.ipynb

setup: $(VENV)/ready

# mmcv's operators are compiled against the torch installed before it; -g0 leaves debug symbols out. yapf, which MMEngine
# uses, writes a cache when it is first imported, which two processes at once would garble.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mmattn needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip
	$(BIN)/pip install $(TORCH) $(SETUPTOOLS) wheel ninja packaging
	@echo "compiling mmcv: five to ten minutes"
	CFLAGS=-g0 $(BIN)/pip install --no-build-isolation $(MMCV)
	$(BIN)/pip install -e '.[$(STACK),$(PRETRAIN),docs,test]'
	$(BIN)/python -c 'import yapf'
	touch $@

clean:
	rm -rf .venv .venv-openmmlab build work_dirs data/scenes data/shapes docs/tour docs/project docs/index.md
