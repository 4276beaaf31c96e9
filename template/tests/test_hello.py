"""An example to copy and to delete. Yours: updates never touch this file."""

from fastapi.testclient import TestClient


def test_hello_greets_by_name(client: TestClient) -> None:
    response = client.get("/hello/Ada")
    assert response.status_code == 200
    assert response.json() == {"message": "Hello, Ada!"}
