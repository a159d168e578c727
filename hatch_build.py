"""Puts what lies in src/ beside the package into the wheel: the commands, and a project's own modules."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Commands(BuildHookInterface):
    """Makes src/train.py the file descent/commands/train.py of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files; an editable install has them where they are."""
        if version == "standard":
            parts = [
                p
                for p in Path(self.root, "src").iterdir()
                if p.suffix == ".py" or (p / "__init__.py").exists()
            ]
            others = {str(p): f"descent/commands/{p.name}" for p in parts if p.name != "descent"}
            build_data["force_include"].update(others)
