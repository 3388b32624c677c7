"""Connections to S3: credentials, region and endpoint come from where boto3 finds them, requests are made by obstore."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError
from botocore.utils import is_valid_endpoint_url, validate_region_name
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import LocalStore, S3Store

from featurestore.errors import UsageError, first_line
from featurestore.objects.location import Location
from featurestore.objects.retries import FIRST_WAIT_S, LONGEST_WAIT_S, Patience

if TYPE_CHECKING:
    from obstore.store import RetryConfig

Store = LocalStore | S3Store


@dataclass(frozen=True)
class Connections:
    """One location, connected in three ways.

    obstore gives up too early where it matters (a `create` whose answer is lost, an answer that breaks off), and does not
    say what it tried; so `Objects` tries again itself, and has obstore do so only inside of operations of many requests.

    Attributes:
        reading: each request once; broken off when the server is silent.
        writing: each request once; a server is silent while a large object is sent to it.
        patient: obstore tries again by itself.
    """

    reading: Store
    writing: Store
    patient: Store


def _endpoint(session: boto3.Session) -> str | None:
    """The endpoint for S3 from environment or profile, by boto3's own rules; `None` when there is none: AWS itself.

    A client would know it, too, and takes 0.1 s to be made: each command would make four.

    Raises:
        ValueError: when it is no URL.
        BotoCoreError: when the configuration cannot be read.
    """
    core = session._session  # noqa: SLF001 - boto3 hands its botocore session on in no other way
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    endpoint = ConfiguredEndpointProvider(core.full_config, core.get_scoped_config(), "s3").provide()
    if endpoint is None:
        return None
    if not is_valid_endpoint_url(endpoint):
        raise ValueError("no URL")
    return str(endpoint)


def connect(location: Location, patience: Patience) -> Connections:
    """Connect to an `s3://` location; the first request is made later.

    Raises:
        UsageError: when there are no credentials, or the settings are not usable.
    """
    try:
        session = boto3.Session()
        endpoint, region = _endpoint(session), session.region_name
        if region is not None:
            validate_region_name(region)
    except (ValueError, BotoCoreError) as error:
        reason = first_line(error) if isinstance(error, BotoCoreError) else "the endpoint is no URL"
        raise UsageError(
            f"S3 for {location} is not set up ({reason}); correct AWS_ENDPOINT_URL (as http://HOST:PORT), AWS_PROFILE "
            "and AWS_REGION"
        ) from error
    is_aws = endpoint is None or ".amazonaws.com" in endpoint
    parts = urlsplit(location.url)
    try:
        credentials = Boto3CredentialProvider(session)
    except ValueError as error:
        raise UsageError(
            f"no S3 credentials for {location} were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error

    def store(retries: RetryConfig, silence_s: float) -> S3Store:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config={
                "region": region or "us-east-1",
                "virtual_hosted_style_request": is_aws,
                # As a header of its own, x-amz-checksum-sha256: not every server looks at x-amz-content-sha256, which the
                # signature brings, and then stores what was damaged on the way.
                "checksum_algorithm": "SHA256",
                **({} if endpoint is None or is_aws else {"endpoint": endpoint}),
            },
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=patience.connect_s),
                "timeout": timedelta(seconds=patience.request_s),
                "read_timeout": timedelta(seconds=silence_s),  # also runs while a body is sent
            },
            retry_config=retries,
            credential_provider=credentials,
        )

    once: RetryConfig = {"max_retries": 0}
    again: RetryConfig = {
        "max_retries": 12,
        "retry_timeout": timedelta(seconds=patience.total_s),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_WAIT_S),
            "max_backoff": timedelta(seconds=LONGEST_WAIT_S),
            "base": 2,
        },
    }
    return Connections(
        reading=store(once, patience.silence_s),
        writing=store(once, patience.request_s),
        patient=store(again, patience.request_s),
    )
