"""Settings of the task list: everything that differs between hosts comes from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from config.database import databases

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = os.environ.get("ENVIRONMENT") == "development"
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "*").split(",")


def secret_key(path: Path) -> str:
    """``DJANGO_SECRET_KEY``, else a key made once and kept beside the data, so that sessions last."""
    given = os.environ.get("DJANGO_SECRET_KEY")
    if given:
        return given
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(get_random_secret_key())
    except FileExistsError:
        pass
    return path.read_text()


DATA_DIR = Path(os.environ.get("DATA_DIR") or BASE_DIR / "data")
SECRET_KEY = secret_key(DATA_DIR / "secret_key")
DATABASES = databases(DATA_DIR)

INSTALLED_APPS = ["tasks"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
ROOT_URLCONF = "tasks.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
