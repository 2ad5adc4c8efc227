#!/bin/sh
# Compares the ids of `engine tokenize` with those of llama.cpp's `llama-tokenize`: the whole test text, with and without
# special tokens, then line by line.
# Usage: scripts/tokenizer-proof.sh MODEL LLAMA_TOKENIZE [TEXT]
set -eu

model=$1
reference=$2
text=${3:-engine/tests/data/tokenizer-lines.txt}
engine=${ENGINE:-target/release/engine}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

failed=0
compared=0
tokens=0

# compare FILE [FLAG]
compare() {
    "$reference" -m "$model" -f "$1" --ids --no-escape --log-disable ${2:+"$2"} 2>/dev/null |
        tail -n 1 | tr -d '[],' >"$folder/expect"
    "$engine" tokenize -m "$model" --ids ${2:+"$2"} - <"$1" >"$folder/found"
    compared=$((compared + 1))
    tokens=$((tokens + $(wc -w <"$folder/found")))
    if ! cmp -s "$folder/expect" "$folder/found"; then
        failed=$((failed + 1))
        echo "differs: $1 ${2:-}" >&2
        diff "$folder/expect" "$folder/found" >&2 || true
    fi
}

compare "$text"
compare "$text" --no-parse-special
split -l 1 -a 4 "$text" "$folder/line."
for line in "$folder"/line.*; do
    compare "$line"
done
echo "$compared texts, $tokens tokens, $failed differ"
test "$failed" -eq 0
