"""What the command line may name: a spider, a spider's file, or a URI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import refused, run
from crawls import FEEDS, SPIDER, STATE_OPTIONS, STATES, crawl
from histories import History

pytestmark = pytest.mark.long


class TestTargets:
    def test_all_kinds_of_targets(self, project: Path, environment: dict[str, str]) -> None:
        """A spider's name, its file, the state feed's URI, a path and a bare prefix mean the same checkpoints."""
        by_name = run(project, "show", "numbers", environment=environment)
        assert by_name.code == 0, by_name.err
        assert by_name.out.startswith('STATE {"page": 2} from checkpoint ')
        folder = project / "data" / "numbers" / "state"
        for target in ("spider.py", f"{folder}/", f"file://{folder}/%(batch_id)010d.json", "data/numbers/state/"):
            found = run(project, "show", target, environment=environment)
            assert _without_age(found.out) == _without_age(by_name.out), target
        assert run(project, "get", "-a", "name=numbers", "data/%(name)s/state/%(batch_id)010d.json").out == '{"page": 2}\n'

    def test_what_a_run_says(self, project: Path, environment: dict[str, str]) -> None:
        """``show`` prints what a run then logs, also with --at and --lag: both use the same resolver."""
        older = ["-s", "STATE_AT=-1", "-s", 'STATE_LAG={"page": 1}']
        for arguments, given in (([], []), (["--at", "-1", "--lag", '{"page": 1}'], older)):
            shown = run(project, "show", "numbers", *arguments, environment=environment)
            states = {"FEEDS": {STATES: STATE_OPTIONS}, "STATE_READONLY": True}
            settings = {"SPIDER_MODULES": ["spider"], **states, "STATE_INTERVAL": 0}
            done = crawl(project, SPIDER, *given, settings=settings)
            [line] = done.lines(" INFO: STATE ")
            assert _without_age(line).endswith(_without_age(shown.out.splitlines()[0])), line

    def test_custom_settings_and_arguments(self, tmp_path: Path) -> None:
        """The spider's custom_settings count, and its arguments fill the URI's placeholders."""
        source = f"{SPIDER}\n    custom_settings = {{'FEEDS': {FEEDS!r}, 'STATE': {{'page': 7}}}}\n"
        source = source.replace("%(name)s/state", "%(region)s/state")
        crawl(tmp_path, source, "-a", "region=CA", settings={"SPIDER_MODULES": ["spider"], "FEEDS": {}})
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        assert run(tmp_path, "get", "numbers", "-a", "region=CA", environment=environment).out == '{"page": 10}\n'
        fresh = run(tmp_path, "show", "numbers", "-a", "region=NY", environment=environment)
        assert (fresh.code, fresh.out) == (0, 'STATE {"page": 7} from the settings (priority spider)\n')
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "%(region)s", "-a region=")

    def test_folder_without_its_subfolders(self, history: History) -> None:
        """A folder means the files directly in it. If all files are in folders below, one line names them."""
        history.run()
        folder = Path(history.where)
        refused(run(folder, "get", f"{folder}/"), 2, f"{folder}/", "there are some in folders below it", "items/")
        (folder / "0000000001.json").write_text('[{"state": {"page": 7}}]')
        assert run(folder, "get", f"{folder}/").out == '{"page": 7}\n'

    def test_no_such_spider(self, project: Path, environment: dict[str, str]) -> None:
        """If no spider has the name, the message lists the spiders, and shows what a URI looks like."""
        refused(run(project, "show", "nobody", environment=environment), 2, "'nobody'", "numbers", "s3://")

    def test_broken_project(self, tmp_path: Path) -> None:
        """If a spider module can't be imported, one line says why."""
        (tmp_path / "spider.py").write_text("import nowhere")
        (tmp_path / "project_settings.py").write_text('SPIDER_MODULES = ["spider"]')
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "ModuleNotFoundError", "nowhere")
        refused(run(tmp_path, "show", "spider.py"), 2, "spider.py", "nowhere")

    def test_validate_state(self, tmp_path: Path) -> None:
        """The command calls the project's own hooks as a run does: ``set`` calls validate_state(), ``show`` change_state()."""
        source = SPIDER + (
            "\nfrom scrapy_state import StateResolver\n"
            "class Strict(StateResolver):\n"
            "    def validate_state(self, state, spider):\n"
            "        if 'page' not in state: raise ValueError('no page')\n"
            "    def change_state(self, state):\n"
            "        return {'page': 8 // state['page']} if state else {'page': 1}\n"
        )
        crawl(tmp_path, source, settings={"SPIDER_MODULES": ["spider"], "EXTENSIONS": {"spider.Strict": 10}})
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        refused(run(tmp_path, "set", "numbers", '{"pag": 3}', environment=environment), 2, "ValueError: no page")
        assert run(tmp_path, "set", "numbers", '{"page": 3}', environment=environment).code == 0
        assert run(tmp_path, "get", "numbers", environment=environment).out == '{"page": 2}\n'
        assert run(tmp_path, "set", "numbers", '{"page": 0}', environment=environment).code == 0
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "refuses to start from", "ZeroDivisionError")


def _without_age(line: str) -> str:
    return re.sub(r", [^,()]* old\)", ")", line)
