import json, pytest, time
from pathlib import Path

pytestmark = pytest.mark.systemd


def test_time(site):
    root = Path("/work/main/examples/fastapi_app")
    tree = {
        str(p.relative_to(root)): p.read_text()
        for p in root.rglob("*")
        if p.is_file()
        and "__pycache__" not in str(p)
        and p.suffix in (".py", ".toml", ".txt", ".lock", ".md")
    }
    app = "app.main:create_app()" if (root / "app" / "main.py").exists() else "main:app"
    for seconds in (20, 10):
        spec = site.spec(
            "demo",
            {**tree, "x.txt": str(seconds)},
            bind="127.0.0.1:9071",
            measure={"seconds": seconds},
            app=app,
        )
        began = time.time()
        answer = site.apply(spec)
        print(
            seconds,
            [
                (s["name"], round(s["seconds"], 1), s["detail"][:90])
                for s in answer["steps"]
                if s["name"] in ("check", "measure", "start", "dependencies")
            ],
            answer["warnings"],
            round(time.time() - began, 1),
        )
        m = json.loads(site.host.read("/srv/demo/current/release.json"))["measured"]
        print({k: v for k, v in m.get("measurement", {}).items()})
        p = answer["plan"]
        print(
            {
                k: p[k]
                for k in (
                    "workers",
                    "threads",
                    "worker_class",
                    "preload_app",
                    "strategy",
                    "memory_deploy_peak",
                )
            },
            p["verdict"],
            p["warnings"],
        )
        print("again changed:", site.apply(spec)["changed"])
    site.remove("demo")
