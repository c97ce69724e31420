# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0
"""It stands for your application: pushit needs the first two views, and whatever publishes."""
import re

from django.conf import settings
from django.contrib.auth import authenticate, login
from django.http import HttpResponse
from django.views.decorators.http import require_GET, require_POST

from pushit import PushIt

push = PushIt(**settings.PUSHIT)

# Your application has orders of its own.
OWNERS = {1: "ann", 2: "bob"}


def may_view(user, order):
    return user.is_authenticated and OWNERS.get(order) == user.get_username()


@require_GET
def pushit_session(request):
    """Who is this? pushit asks when a page connects, with the cookies of the page."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    return HttpResponse(status=204, headers={"Remote-User": request.user.get_username()})


@require_GET
def pushit_channel(request):
    """May this user subscribe? pushit asks for each subscription."""
    order = re.fullmatch(r"orders/([0-9]{1,18})", request.GET.get("channel", ""))
    return HttpResponse(status=204 if order and may_view(request.user, int(order[1])) else 403)


@require_POST
def log_in(request):
    user = authenticate(request, username=request.POST.get("user", ""), password=request.POST.get("password", ""))
    if user is None:
        return HttpResponse(status=403)
    login(request, user)
    return HttpResponse(status=204)


@require_POST
def ship(request, order):
    if not may_view(request.user, order):
        return HttpResponse(status=403)
    # The uuid says what happened, so that it is published once, however often this runs.
    push.publish(f"orders/{order}", {"status": "shipped"}, uuid=f"order-{order}-shipped")
    return HttpResponse(status=204)
