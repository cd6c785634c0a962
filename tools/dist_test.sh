#!/usr/bin/env bash
# Test with N processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT N [options of tools/test.py]
#
# TORCHRUN  options of torchrun, as in dist_train.sh
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2s/^# //p' "$0" >&2; exit 2; fi
"${PYTHON:-python}" -c 'import yapf'     # MMEngine's; writes a cache the first time, which several processes garble
# A new store for every start: in a shared one, a process that is started again reads where the others were before.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python}" -m torch.distributed.run ${TORCHRUN:---standalone} --nproc-per-node="$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
