# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0
from django.urls import path

from . import views

urlpatterns = [
    path("pushit/session", views.pushit_session),
    path("pushit/channel", views.pushit_channel),
    path("login", views.log_in),
    path("orders/<int:order>/ship", views.ship),
]
