"""The command line where only the engines of choosy.py are installed; used as `python -m several`."""

from __future__ import annotations

from harness import cli, registry

registry.LIBRARIES.update(dict.fromkeys(registry.LIBRARIES, "no_such_library"))
for name, engine in {"choosy": "Choosy", "slow": "Slow"}.items():
    registry.ENGINES[name] = f"choosy:{engine}"
    registry.LIBRARIES[name] = "json"

if __name__ == "__main__":
    cli.main()
