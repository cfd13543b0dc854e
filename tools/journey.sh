#!/usr/bin/env bash
# Rehearses every step from a clone to the tarball for upload, with the commands of README.md and submission.md
# (called by `make journey`): tools/journey.sh [FOLDER]. INFERENCE_REPO names a checkout of mlcommons/inference; its
# two checkers then check the open and the closed package.
#
# The last commit of this repository is cloned to FOLDER/clone, and everything happens there. FOLDER/logs keeps what each
# step printed. The first step that fails ends the journey with exit code 1; wrong arguments give 2.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$here/build/journey}
inference=${INFERENCE_REPO:-}
system=journey you=acme model=minilm-l6-squad-int8

if [ -e "$folder" ]; then
    echo "error: $folder already exists: remove it, or name another folder (tools/journey.sh FOLDER)." >&2
    exit 2
fi
if [ -n "$inference" ] && ! [ -d "$inference/tools/submission" ]; then
    echo "error: INFERENCE_REPO=$inference is not a checkout of mlcommons/inference." >&2
    exit 2
fi
if [ -n "$(git -C "$here" status --porcelain 2>/dev/null)" ]; then
    echo "note: uncommitted changes are not part of the journey" >&2
fi
mkdir -p "$folder/logs"
folder=$(cd "$folder" && pwd)
[ -z "$inference" ] || inference=$(cd "$inference" && pwd)
# The commands must not inherit variables of the make that may have called this script.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES INFERENCE_REPO

number=0 began=$(date +%s)
printf '%-4s %7s %4s  %s\n' step seconds exit command >"$folder/table"
echo "what each step prints is in $folder/logs" >&2

# step COMMAND...: runs one command in the working directory, keeps its output, and notes its seconds and exit code.
step() {
    number=$((number + 1))
    local word command='' code=0 start log
    for word in "$@"; do
        case $word in
            [A-Z]*=*' '*) word="${word%%=*}=\"${word#*=}\"" ;;
            *[\ \"]*) word="'$word'" ;;
        esac
        command="$command${command:+ }$word"
    done
    log=$folder/logs/$(printf %02d "$number").log
    echo "[$number] $command" >&2
    start=$(date +%s)
    "$@" >"$log" 2>&1 </dev/null || code=$?
    printf '%-4s %7s %4s  %s\n' "$number" "$(($(date +%s) - start))" "$code" "$command" >>"$folder/table"
    if [ "$code" -ne 0 ]; then
        tail -n 20 "$log" >&2
        cat "$folder/table"
        echo "error: step $number, \`$command\`, ended with exit code $code; its output is in $log." >&2
        exit 1
    fi
}

cd "$folder"
step git clone --quiet "$here" clone
cd clone

# README.md, "Start"
step make setup
step make doctor
step make run-offline
step make run-accuracy
step make report

# submission.md, "3. Describe the system". A person edits the file; here each field gets the example in its place.
step make system SYSTEM="$system" ARGS="--submitter $you --system-type edge --status available"
step sed -i 's/"FILL IN: .*such as /"/' "systems/$system.json"
step make system SYSTEM="$system" ARGS="--set cooling=air"

# "4. Tune": one engine, in short measurements
step make tune SCENARIO=Offline SYSTEM="$system" MODEL="$model" ENGINE=openvino ARGS="--seconds 1"
step make tune SCENARIO=Server SYSTEM="$system" MODEL="$model" ENGINE=openvino ARGS="--seconds 1 --confirm-seconds 5"

# "5. Run everything": the plan of the real campaign, and what a package of it would lack
step make submission DIVISION=open SYSTEM="$system" MODELS="$model" ARGS=--dry-run

# "1. Rehearse": the open division with the shipped model on its fastest engine, the closed one with the null engine.
step make submission REHEARSAL=1 DURATION=5 SYSTEM="$system"
step make package REHEARSAL=1 SUBMITTER="$you" SYSTEM="$system"
step make submission REHEARSAL=1 DURATION=5 DIVISION=closed SYSTEM="$system-closed" ENGINE=null SET="delay_us=10000"
step make package REHEARSAL=1 DIVISION=closed SUBMITTER="$you" SYSTEM="$system-closed"

# "7. Check", and the content of the tarball as its receiver sees it
if [ -n "$inference" ]; then
    step make check REHEARSAL=1 INFERENCE_REPO="$inference"
else
    step make check REHEARSAL=1
fi
step mkdir unpacked
step tar -xzf "build/rehearsal-submission-rehearsal-$you.tar.gz" -C unpacked
step diff -r build/rehearsal-submission unpacked

cat "$folder/table"
echo "All $number steps ended with exit code 0, in $(($(date +%s) - began)) s. Logs: $folder/logs"
[ -n "$inference" ] || echo "Not run, since INFERENCE_REPO= is not given: the two official checkers."
echo "Not run, since a rehearsal has stand-ins for them: make data, harness models fetch, IMAGENET_DIR=, and official runs."
