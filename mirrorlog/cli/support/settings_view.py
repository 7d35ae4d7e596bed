"""The settings as `mirrorlog config` prints them: values, where they come from, no secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirrorlog.cli.support.context import settings_from
from mirrorlog.errors import BadUse
from mirrorlog.secret_files import is_secret_name
from mirrorlog.setting_errors import Origin, variable_of
from mirrorlog.settings import LoadedSettings, examine_settings, setting_form

HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting. A client setting of Kafka is one of its own, named `kafka.NAME`.

    value: None if it has none, or is hidden.
    """

    name: str
    value: Any
    origin: Origin
    is_hidden: bool

    def as_fields(self) -> dict[str, Any]:
        """Return the setting as --json prints it."""
        return {
            "name": self.name,
            "value": self.value,
            "is_hidden": self.is_hidden,
            "from": str(self.origin),
            "variable": variable_of(self.name.partition(".")[0]),
        }

    def as_row(self) -> tuple[str, str, str]:
        """Return the setting as a row for people."""
        if self.is_hidden:
            shown = HIDDEN
        elif self.value is None or self.value in ("", {}):
            shown = "none"
        elif isinstance(self.value, list):
            shown = ", ".join(map(str, self.value))
        elif isinstance(self.value, dict):
            shown = ", ".join(f"{name}={value}" for name, value in self.value.items())
        else:
            shown = str(self.value)
        return self.name, shown, str(self.origin)


def examine(values: Mapping[str, Any]) -> tuple[LoadedSettings | None, list[BadUse]]:
    """Return the settings of the global options `values`, and all that is wrong.

    -F and -X aren't part of them yet.
    """
    overrides = {
        name: values[name] for name in ("bootstrap_servers", "state_dir") if name in values
    }
    return examine_settings(values.get("config"), overrides)


def shown_settings(loaded: LoadedSettings, values: Mapping[str, Any]) -> list[ShownSetting]:
    """Return every setting, by name, with what -F and -X of the global options `values` add.

    Errors: BadUse as settings_from.
    """
    before = loaded.settings
    after = settings_from(
        None,
        values.get("client_file"),
        values.get("client_options") or (),
        values.get("bootstrap_servers"),
        values.get("state_dir"),
        loaded=before,
    )
    settings = after.model_dump(mode="json")
    client = settings.pop("kafka")
    origins = dict(loaded.origins)
    if after.bootstrap_servers != before.bootstrap_servers:
        origins["bootstrap_servers"] = Origin.OPTION
    elif after.servers.is_embedded:
        origins["bootstrap_servers"] = Origin.EMBEDDED_BROKER
    shown = [
        _client_setting(key, value, origins["kafka"], before.kafka) for key, value in client.items()
    ]
    for name, value in settings.items():
        is_hidden = setting_form(name).is_secret and bool(value)
        shown.append(ShownSetting(name, None if is_hidden else value, origins[name], is_hidden))
    return sorted(shown, key=lambda setting: setting.name)


def _client_setting(
    key: str, value: Any, origin: Origin, before: Mapping[str, Any]
) -> ShownSetting:
    """Return one client setting of Kafka. before: those of the file and the environment."""
    is_hidden = is_secret_name(key)
    if before.get(key) != value:
        origin = Origin.OPTION
    return ShownSetting(f"kafka.{key}", None if is_hidden else value, origin, is_hidden)
