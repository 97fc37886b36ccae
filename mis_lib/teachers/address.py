"""What is taken for a server's address: one that may be shown and stored, so that nothing secret stands in it."""

from urllib.parse import urlsplit

from mis_lib.errors import SettingsError


def check_address(url: str) -> None:
    """Refuse what is no server's address, or one that should not be told.

    Raises:
        SettingsError: the address is none, or carries a password or a query.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        raise SettingsError(
            f"{parts.scheme}://{parts.hostname}: expected a server's address without password or query, since run folders and pages tell it; "
            "a key goes into OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"expected a server's address such as http://localhost:8000/v1, found {url!r}")
