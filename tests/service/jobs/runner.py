"""Stands in for `python -m eval`: the same files and exit codes without its libraries. The spec's name says the rest.

well      two stages and a report            crash     no reason given
held      runs until it is ended             fails     a reason that names its folder
refused   --check says which field           full      --check says that the server is full
bound     --check says what the server refuses of an arm
asks      asks the server for its model, with the key it was given
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request
from pathlib import Path


def tell(**line: object) -> None:
    with Path("progress.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def fail(message: str, *, param: str | None = None, refused: bool) -> None:
    tell(error={"message": message, "param": param, "refused": refused})
    sys.exit(2)


def end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(130)


def main() -> None:
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    spec = sys.argv[2]
    name = json.loads(Path(spec).read_text(encoding="utf-8"))["name"] if spec.endswith(".json") else spec
    if "--check" in sys.argv:
        if name == "refused":
            fail("spec.json: arms.0.upper is 2; expected at most 1", param="arms.0.upper", refused=True)
        if name == "bound":
            fail("the server refuses (400): upper is 2", param="steering.constraints.0.upper", refused=True)
        if name == "full":
            fail("the server is full", refused=False)
        return
    Path("seen.json").write_text(
        json.dumps({"argv": sys.argv, "key": os.environ["TILLER_API_KEY"], "pid": os.getpid()})
    )
    tell(stage="writing", done=3, total=8, eta_seconds=1.5)
    if name == "asks":
        server, key = sys.argv[sys.argv.index("--server") + 1], os.environ["TILLER_API_KEY"]
        sent = urllib.request.Request(f"{server}/v1/models", headers={"authorization": f"Bearer {key}"})
        urllib.request.urlopen(sent, timeout=20).close()
    if name == "held":
        threading.Event().wait()
    if name == "fails":
        fail(f"{Path.cwd()} cannot be written", refused=False)
    if name == "crash":
        sys.exit(1)
    tell(stage="writing", done=8, total=8, eta_seconds=0.0)
    tell(stage="judge", done=8, total=8, eta_seconds=0.0)
    Path("report.html").write_text(f"<!doctype html><title>{name}</title><p>{Path.cwd()}/spec.json", encoding="utf-8")
    Path("report.md").write_text(f"# {name}\n", encoding="utf-8")
    Path("report.json").write_text(json.dumps({"spec": name}), encoding="utf-8")


if __name__ == "__main__":
    main()
