#!/usr/bin/env bash
# Train with N processes on this machine: tools/dist_train.sh CONFIG N [options of tools/train.py]
#
# TORCHRUN  options of torchrun, for several machines or restarts, for example
#           TORCHRUN="--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 --max-restarts=3"; default --standalone.
#           With restarts, add --resume.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2s/^# //p' "$0" >&2; exit 2; fi
"${PYTHON:-python}" -c 'import yapf'     # MMEngine's; writes a cache the first time, which several processes garble
# A new store for every start: in a shared one, a process that is started again reads where the others were before.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python}" -m torch.distributed.run ${TORCHRUN:---standalone} --nproc-per-node="$2" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
