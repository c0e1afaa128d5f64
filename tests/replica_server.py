"""What vLLM's server is to a client, in a moment: python replica_server.py FOLDER PORT.

An answer is a function of the prompt's ids and the seed. It has an engine, a process that it leaves
behind. With a file `die` in the folder it ends at the second answer; with `never` it does not come
up, with `slow` only after a minute.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWERED: list[int] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        cards = [{"id": "model", "owned_by": "vllm", "max_model_len": 4096}]
        self.reply({"data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.send_error(401)
            return
        ANSWERED.append(1)
        if len(ANSWERED) > 1 and Path("die").exists():
            os._exit(3)
        text = f"{sum(body['prompt'])} {body['seed']}"
        choice = {"text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5]}}
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}
        self.reply({"choices": [choice], "usage": usage})

    def reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    os.chdir(folder)
    if Path("never").exists():
        print("no memory for the model", flush=True)
        sys.exit(4)
    if Path("slow").exists():
        time.sleep(60)
    engine = subprocess.Popen(["sleep", "600"])
    Path("engine").write_text(str(engine.pid))
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
