#!/bin/sh
# Take the figures of benchmarks/README.md on this machine, in a night:
#
#     benchmarks/all.sh             everything that is not done yet
#     benchmarks/all.sh --list      the names, and how long each takes about, on two cores
#     benchmarks/all.sh harness     the named ones, again if they are done
#
# Nothing else should use the machine. Each benchmark writes into benchmarks/results, and its log into build/benchmarks.
# What fails is named in the end, and the others go on. A second start goes on where the first one was ended.
# Images and weights come from ../shared: what needs them is left out where they are not, and named.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
logs=build/benchmarks
shared=../shared
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"

# Name, minutes, s if it needs ../shared, command. Peers of other environments: PEER is a Python that has them.
table() {
    cat <<EOF
harness 1 - harness.py --seconds 20
footprint 5 - footprint.py
bundle 2 - bundle.py
keras 5 - from_keras.py
scale 10 - scale.py
labels 5 s labels.py --sets clothing10
predict 5 s predict.py
finetune 15 s finetune.py ${PEER:+--python $PEER}
precisions 5 s finetune.py --precisions
precisions-accuracy 30 s precisions.py
accuracy 120 s accuracy.py --arms methods,peers ${PEER:+--python $PEER}
contention 40 s contention.py --images $shared/data/clothing10/train ${PEER:+--python $PEER}
prune-resnet18 30 s prune.py --models resnet18 --seeds 0,1,2 --epochs 4
prune-resnet50 40 s prune.py --models resnet50 --seeds 0 --epochs 8
prune-mobile 60 s prune.py --models efficientnet_lite0,mobilenetv2 --seeds 0,1,2 --epochs 8
prune-rival 90 s prune_rival.py --seeds 0,1,2
prune-int8 120 s prune_int8.py --sets clothing10,signdigits6-60
adapt 20 s adapt.py runs/benchmark-prune/efficientnet_lite0-0/whole --priors 64,1024 --only none,blur,noise,brighter
accuracy-precisions 120 s accuracy.py --arms precisions --models mobilenetv2,resnet18 --weights runs/benchmark-prune --name finetune-precision
quantize-lite0 20 s quantize.py --model tf_efficientnet_lite0 --images $shared/data/clothing10
quantize-mobilenetv2 20 s quantize.py --model mobilenetv2_100 --images $shared/data/clothing10
quantize-resnet50 40 s quantize.py --model resnet50 --images $shared/data/clothing10
quantize-tuned-resnet18 15 s quantize.py --model resnet18-clothing10 --tuned runs/benchmark-prune/resnet18-0/whole --images $shared/data/clothing10
quantize-tuned-mobilenetv2 15 s quantize.py --model mobilenetv2-clothing10 --tuned runs/benchmark-prune/mobilenetv2-0/whole --images $shared/data/clothing10
quantize-noise 15 s quantize_noise.py --images $shared/data/clothing10
quantize-memory 10 s quantize_memory.py --images $shared/data/clothing10 --samples 512
int8-operators 40 - int8_operators.py
int8-depthwise 2 - int8_depthwise.py
branches 15 - branches.py
hard-networks 900 s hard_networks.py --images $shared/data/clothing10 --work runs/benchmark-hard
hard-int8 30 s hard_int8.py --images $shared/data/clothing10 --work runs/benchmark-hard
hard-formats 30 s hard_formats.py --images $shared/data/clothing10 --work runs/benchmark-hard
block-reconstruction 30 s block_reconstruction.py --images $shared/data/clothing10 --work runs/benchmark-hard
qat-unlabelled 30 s qat_unlabelled.py --images $shared/data/clothing10 --work runs/benchmark-hard
optimize 120 s optimize.py
ranking 10 s ranking.py --sets clothing10,elpv --networks lite0,lite1,mobilenetv2,resnet18 --image-sizes 128,160,224 --widths 1,0.6 --epochs 6
serving 20 - serving.py
cpp 5 s cpp.py
rtx-engines 90 - rtx_engines.py
architectures 60 - architectures.py
robustness 60 - robustness.py
EOF
}

if [ "${1:-}" = --list ]; then
    table | while read -r name minutes needs command; do
        echo "$name: $minutes min$([ "$needs" = s ] && echo ", needs $shared")"
    done
    exit 0
fi

mkdir -p "$logs"
for name in "$@"; do
    table | grep -q "^$name " || { echo "There is no benchmark $name. See benchmarks/all.sh --list" >&2; exit 2; }
    rm -f "$logs/$name.done"
done
table | while read -r name minutes needs command; do
    case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
    if [ -e "$logs/$name.done" ]; then
        echo "$name: done already"
    elif [ "$needs" = s ] && [ ! -d "$shared" ]; then
        echo "$name: left out, there is no $shared"
    else
        echo "$name: about $minutes min"
        # shellcheck disable=SC2086  # the command's words are words
        if "$python" benchmarks/$command >"$logs/$name.log" 2>&1 </dev/null; then
            touch "$logs/$name.done"
        else
            echo "$name: failed, see $logs/$name.log"
        fi
    fi
done
"$python" benchmarks/page.py
