"""Where lineage goes: to a server or into files, by the environment variables that OpenLineage's own clients read."""

import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from pipelines.errors import RecipeError

PREFIX: Final = "OPENLINEAGE__TRANSPORT__"
ENDPOINT: Final = "api/v1/lineage"
TIMEOUT_SECONDS: Final = 5.0  # OpenLineage's own; the most that a server which is down costs an event

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class HttpTransport:
    """Posts each event to a lineage server, once."""

    url: str
    key: str | None
    timeout_seconds: float

    def __call__(self, event: dict[str, Any]) -> None:
        """Send an event; raises where the server does not take it."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(event).encode(), headers)
        with _OPENER.open(request, timeout=self.timeout_seconds):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to go elsewhere: urllib would take the key along, and leave the event behind."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        """Return no request, which makes an error of the redirect."""


_OPENER: Final = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True, slots=True)
class FileTransport:
    """Appends each event to a file as a line, or writes it into a new file whose name ends with the time."""

    path: Path
    append: bool

    def __call__(self, event: dict[str, Any]) -> None:
        """Write an event."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S.%f")
        path = self.path if self.append else self.path.with_name(f"{self.path.name}-{now}.json")
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def transport(environment: Mapping[str, str]) -> Send | None:
    """Return what sends events as the environment says; None where it names no place, or disables lineage.

    Raises:
        RecipeError: it names a transport that is not known here, or lacks what one needs.
    """
    if environment.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return None
    settings = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    match settings.get("TYPE"):
        case "file":
            path = _needed(settings, "LOG_FILE_PATH").removeprefix("file://")
            return FileTransport(Path(path), settings.get("APPEND", "").lower() == "true")
        case "http":
            key = settings.get("AUTH__API_KEY") or settings.get("AUTH__APIKEY") or _key(settings.get("AUTH"))
            return _http(_needed(settings, "URL"), settings.get("ENDPOINT"), key, settings.get("TIMEOUT"))
        case None:
            if not (url := environment.get("OPENLINEAGE_URL")):
                return None
            return _http(url, environment.get("OPENLINEAGE_ENDPOINT"), environment.get("OPENLINEAGE_API_KEY"))
        case other:
            raise RecipeError(f"{PREFIX}TYPE is {other}; known are file and http")


def _http(url: str, endpoint: str | None, key: str | None, timeout: str | None = None) -> HttpTransport:
    if not url.startswith(("http://", "https://")):
        raise RecipeError(f"the lineage server's address is {url}; it begins with http:// or https://")
    try:
        seconds = float(timeout) if timeout else TIMEOUT_SECONDS
    except ValueError:
        raise RecipeError(f"{PREFIX}TIMEOUT is {timeout}; give seconds") from None
    return HttpTransport(urljoin(url.rstrip("/") + "/", (endpoint or ENDPOINT).lstrip("/")), key, seconds)


def _needed(settings: Mapping[str, str], name: str) -> str:
    if not (value := settings.get(name)):
        raise RecipeError(f"{PREFIX}TYPE is {settings['TYPE']}, which needs {PREFIX}{name}")
    return value


def _key(auth: str | None) -> str | None:
    """Return the key in an AUTH variable: JSON like {"type": "api_key", "apiKey": "..."}."""
    try:
        found = json.loads(auth) if auth else {}
    except ValueError:
        raise RecipeError(f"{PREFIX}AUTH is not JSON") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{PREFIX}AUTH is no JSON object with an apiKey")
    return found.get("apiKey") or found.get("api_key")
