"""The one exception that the commands print as a line instead of a traceback."""


class ConfigError(ValueError):
    """A choice that cannot work. The message names the key, the value and what was expected.

    Everything in this package that a person can get wrong from the command line raises this;
    any other exception is a bug, in the template or in code that was added to it, and keeps its traceback.
    """


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise `ConfigError("name=value: expected …")` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}={value}: expected {expected}")
