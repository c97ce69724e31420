# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0
"""The shop of the guide, with Django. It has no database: users are in shop/users.py."""
import os

SECRET_KEY = os.environ["PUBLISHER_SECRET"] + " for cookies"
ALLOWED_HOSTS = [".localhost", ".test"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
AUTHENTICATION_BACKENDS = ["shop.users.Backend"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
USE_TZ = True

PUSHIT = {
    "url": os.environ.get("PUSHIT_URL", "http://localhost:8080/push"),
    "secret": os.environ["PUBLISHER_SECRET"],
}
