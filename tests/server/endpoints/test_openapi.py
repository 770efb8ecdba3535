"""The document of the API is true: what it allows is answered as it says, and what it forbids is refused."""

from pathlib import Path

import pytest

import tokenq
from tokenq.server.app import ROUTERS


@pytest.mark.slow
def test_schemathesis_finds_no_disagreement(engine, settings):
    import schemathesis
    from hypothesis import HealthCheck, given
    from hypothesis import settings as hypothesis_settings
    from schemathesis.checks import CHECKS, load_all_checks

    from tokenq.server.app import create_app

    load_all_checks()
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    checks = CHECKS.get_by_names(
        [*names, "response_schema_conformance", "response_headers_conformance", "negative_data_rejection"]
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(engine, settings))
    found = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ("/pause",):  # it would hold all others up
            continue

        @given(case=operation.as_strategy())
        @hypothesis_settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def agrees(case):
            case.call_and_validate(checks=checks)

        agrees()
        found += 1
    assert found > 15


def test_the_page_of_endpoints_has_all_of_them(client):
    page = (Path(tokenq.__file__).parents[1] / "docs" / "endpoints.md").read_text()
    ours = {route.path for router in ROUTERS for route in router.routes}
    assert {path for path in ours if f"`{path.replace(':path', '')}`" not in page} == set()
    assert ours <= {path.replace("{name}", "{name:path}") for path in client.get("/openapi.json").json()["paths"]}


def test_every_endpoint_says_what_it_answers(client):
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for name, operation in operations.items():
            answers = operation["responses"]
            assert "200" in answers
            schema = next(iter(answers["200"]["content"].values()))["schema"]
            assert schema, (path, name)
            if name == "post":
                assert answers["400"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
                assert "422" not in answers, path
