#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION NAME CONFIG [options of tools/train.py]
#
# GPUS           processes, one for each GPU; default 8
# GPUS_PER_NODE  of them on a machine; default 8
# CPUS_PER_TASK  cores of a process; default 5
# SRUN_ARGS      further options of srun
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2s/^# //p' "$0" >&2; exit 2; fi
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
if [ "$per_node" -gt "$gpus" ]; then per_node=$gpus; fi
"${PYTHON:-python}" -c 'import yapf'     # MMEngine's; writes a cache the first time, which several processes garble
exec srun --partition="$1" --job-name="$2" --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --launcher slurm "${@:4}"
