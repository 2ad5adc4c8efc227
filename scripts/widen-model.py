#!/usr/bin/env python3
"""Writes a model of architecture llama or gemma3 again with longer rows, in F16, which predicts the same.

Usage: scripts/widen-model.py IN OUT [--to WIDTH]        (pip install gguf)

Formats whose names end in K have blocks of 256 weights, and small models have rows that are no whole blocks: the 576 weights of
SmolLM2-135M and the 640 of Gemma 3 270M take other formats in their place, of more bits. Here rows, norms and, where their width
follows from it, heads get zeros at their end up to WIDTH, 768 by default, so that a matrix is in the format that its name says.
A norm divides by the root of the mean square, which zeros make smaller; its weights and epsilon make up for it. Gemma multiplies
embeddings with the root of the width: all that goes into the residual stream is larger by the same factor then.
"""
import argparse
import math

import gguf
import numpy

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("input")
arguments.add_argument("output")
arguments.add_argument("--to", type=int, default=768, metavar="WIDTH")
args = arguments.parse_args()

reader = gguf.GGUFReader(args.input)
value = lambda key: reader.fields[key].contents()
arch = value("general.architecture")
if arch not in ("llama", "gemma3"):
    raise SystemExit(f'"{args.input}" is of architecture "{arch}": only "llama" and "gemma3" can be widened')
key = lambda name: f"{arch}.{name}"
width = value(key("embedding_length"))
changed = {key("embedding_length"): args.to, "general.file_type": int(gguf.LlamaFileType.MOSTLY_F16)}
lengths = {width: args.to}
step = 1
if key("attention.key_length") not in reader.fields:
    heads, kv_heads = (value(key(f"attention.{name}")) for name in ("head_count", "head_count_kv"))
    dim, step = width // heads, width // kv_heads
    changed |= {key("attention.head_count"): args.to // dim, key("attention.head_count_kv"): args.to // step}
    lengths[kv_heads * dim] = args.to // step * dim
if args.to % step or args.to < width:
    raise SystemExit(f"--to: a multiple of {step} is expected, {width} at least")

# A mean over more values, of which the further ones are zeros.
shrunk = width / args.to
if arch == "llama":
    epsilon = key("attention.layer_norm_rms_epsilon")
    changed[epsilon] = value(epsilon) * shrunk

writer = gguf.GGUFWriter(args.output, arch)
for name, field in reader.fields.items():
    if name.startswith("GGUF.") or name == "general.architecture":
        continue
    inner = field.types[1] if len(field.types) > 1 else None
    writer.add_key_value(name, changed.get(name, field.contents()), field.types[0], inner)

for tensor in reader.tensors:
    weights = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
    vocabulary = tensor.name in ("token_embd.weight", "output.weight")
    to = [n if vocabulary and axis == 0 else lengths.get(n, n) for axis, n in enumerate(weights.shape)]
    wider = to[-1] != weights.shape[-1]
    weights = numpy.pad(weights, [(0, new - n) for new, n in zip(to, weights.shape)])
    if "norm" not in tensor.name:
        writer.add_tensor(tensor.name, weights.astype(numpy.float16))
        continue
    # What a norm of Gemma's gives to the residual stream is to be larger by as much as the zeros make it smaller.
    if wider and not ("post" in tensor.name and arch == "gemma3"):
        weights *= math.sqrt(shrunk)
    writer.add_tensor(tensor.name, weights.astype(numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
