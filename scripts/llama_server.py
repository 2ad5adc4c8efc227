"""llama.cpp's `llama-server` as the other side of a proof: started on a free port, asked over HTTP."""
import json
import socket
import subprocess
import sys
import time
import urllib.request


class LlamaServer:
    """One model, ended with the `with` block."""

    def __init__(self, program, model, context=2048):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        flags = ["-m", str(model), "--host", "127.0.0.1", "--port", str(self.port), "-np", "1", "-c", str(context), "-t", "2"]
        self.child = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(240):
            if self.child.poll() is not None:
                sys.exit(f"{program} ended with {self.child.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.5)
        self.child.kill()
        sys.exit(f"{program} did not answer within two minutes")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def _post(self, path, body):
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def tokenize(self, text, special):
        """The ids of `text`; `special` both adds BOS and the like, and takes the texts of special tokens for them."""
        return self._post("/tokenize", {"content": text, "parse_special": special, "add_special": special})["tokens"]

    def complete(self, text, tokens, likeliest):
        """The ids of `text`, those of its greedy completion, and (id, log-probability) of the likeliest at each step.

        The server tells no probabilities of tokens that end within a character: there the likeliest are empty.
        """
        ids = self.tokenize(text, True)
        done = self._post("/completion", {
            "prompt": ids, "n_predict": tokens, "temperature": 0, "top_k": 1, "ignore_eos": True,
            "return_tokens": True, "n_probs": likeliest, "cache_prompt": False, "seed": 1,
        })
        told = iter(done["completion_probabilities"])
        at, tops = next(told, None), []
        for token in done["tokens"]:
            same = at and at["id"] == token
            tops.append([(p["id"], p["logprob"]) for p in at["top_logprobs"]] if same else [])
            at = next(told, None) if same else at
        return ids, done["tokens"], tops


def complete(engine, model, file, tokens, likeliest, flags=()):
    """The same of `engine`, the text in `file`."""
    ids = subprocess.run([engine, "tokenize", "-m", model, "--ids", "-"], stdin=open(file, "rb"),
                         check=True, capture_output=True, text=True).stdout.split()
    command = [engine, "run", "-m", model, "-f", str(file), "-n", str(tokens), "--temp", "0",
               "--ignore-eos", "--top-logprobs", str(likeliest), *flags]
    lines = subprocess.run(command, check=True, capture_output=True).stderr.decode().splitlines()
    steps = [json.loads(line) for line in lines if line.startswith("{")]
    return [int(i) for i in ids], [s["id"] for s in steps], [s["top"] for s in steps]
