"""What went wrong with an object store, in words: our errors for those of obstore and of the servers behind it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from featurestore.errors import HeimdallError, ServiceUnavailableError, ShortObjectError, StoreError
from featurestore.redaction import without_credentials

# Where obstore's error texts hold what people need to know: the server's words, the system's words, or a Rust type's name.
_WORDS = (
    r"<Message>([^<]+)</Message>",
    r"<Code>([^<]+)</Code>",
    r'\bmessage: "([^"]+)"',
    r'\berror: "([^"]+)"',
    r"status code: (\d{3}[^:\n]*)",
    r"(redirect without LOCATION|invalid list response)",
)
_TYPES = {
    "TimedOut": "no answer in time",
    "InvalidContentType": "it does not speak TLS; https:// should perhaps be http://",
    "InvalidCertificate": "its TLS certificate is not trusted",
    "IncompleteMessage": "it closed the connection",
    "body error": "its answer broke off",
    "Parse(": "it does not speak HTTP",
    "NotPartial": "it sent a whole object when asked for a range",
}

# Answers below 500 that another attempt can change: what arrived was not what was sent, or came too slowly, or met another.
_DAMAGED_UPLOAD = r"<Code>(BadDigest|XAmzContentSHA256Mismatch|IncompleteBody)</Code>"
_PASSING = r"<Code>(RequestTimeout|OperationAborted|ConditionalRequestConflict)</Code>"


def explain(error: Exception, name: str, location: str) -> Exception:
    """Our error for one that obstore raised.

    Args:
        error: what was raised; errors that are ours already, or have nothing to do with objects, are returned as they are.
        name: URL of the object, or of the location when it is about no single object.
        location: URL of the location.

    Returns:
        `FileNotFoundError` for an absent object, `ServiceUnavailableError` when trying again can help, else `StoreError`.
    """
    text, reason = str(error), _reason(error)
    if isinstance(error, ValueError) and "parse path" in text:
        return StoreError(f"{name} is not a usable object key ({reason}); correct the key")
    if isinstance(error, HeimdallError) or not isinstance(error, BaseError | OSError):
        return error
    if "object with invalid path" in text:  # for good: it stays there until somebody takes it away
        return StoreError(
            f"{name} cannot be listed, because of an object whose name is no key ({reason}); rename or delete it, or keep "
            "captures under a prefix of their own"
        )
    if "NoSuchBucket" in text:
        return StoreError(f"bucket {urlsplit(location).netloc!r} of {name} does not exist; create it or correct the URL")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{name} does not exist")
    if "InvalidRange" in text:
        return ShortObjectError(f"{name} ends before the bytes that were asked for; it is shorter than expected")
    if location.startswith("file:"):
        return StoreError(f"{name}: {reason}; check the directory, its permissions and the space left")
    return _explain_answer(error, name, text, reason)


def _explain_answer(error: Exception, name: str, text: str, reason: str) -> HeimdallError:
    """Our error for what an S3 server answered, or failed to."""
    match = re.search(r"status code: (\d{3})", text)
    status = int(match[1]) if match else 0
    if status in (401, 403) or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreError(
            f"access to {name} was refused ({reason}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
            "and what they may do with the bucket"
        )
    server = re.search(r"https?://[^/\s]+", text)
    at = f"the object store at {without_credentials(server[0])}" if server else "the object store"
    if re.search(r"redirect without LOCATION|invalid list response|hyper::Error\(\s*Parse|NotPartial|non-partial", text):
        return StoreError(
            f"{name}: {at} does not answer as S3 should ({reason}); "
            "check AWS_ENDPOINT_URL (the API's port, not the console's) and AWS_REGION"
        )
    if re.search(_DAMAGED_UPLOAD, text):
        return ServiceUnavailableError(
            f"{name} did not arrive at {at} as it was sent ({reason}); check the network, or use an https:// endpoint, "
            "then try again"
        )
    if 400 <= status < 500 and status not in (408, 429) and not re.search(_PASSING, text):
        return StoreError(f"{name}: {at} answered: {reason}")
    return ServiceUnavailableError(
        f"{at} does not answer for {name} ({reason}); check AWS_ENDPOINT_URL and the network, then try again"
    )


def _reason(error: Exception) -> str:
    """The telling part of an obstore error."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    for pattern in _WORDS:
        if match := re.search(pattern, text):
            return match[1].strip()
    for name, meaning in _TYPES.items():
        if name in text:
            return meaning
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
