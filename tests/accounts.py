"""What happens to users, as views that the tests ask for it: ``/account/?do=login&name=anna``."""

from __future__ import annotations

from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, JsonResponse

from graceful_ws.publishing import close_user

BACKEND = "django.contrib.auth.backends.ModelBackend"


def account(request: HttpRequest) -> JsonResponse:
    if request.GET["do"] == "logout":
        logout(request)
        return JsonResponse({})
    user, _ = User.objects.get_or_create(username=request.GET["name"])
    match request.GET["do"]:
        case "login":
            login(request, user, backend=BACKEND)
        case "visit":  # somebody without a user, who has a session all the same
            request.session["seen"] = True
        case "deactivate":
            user.is_active = False
            user.save()
        case "password":
            user.set_password("another")
            user.save()
        case "rename":
            user.first_name = "Anna"
            user.save()
        case "delete":
            user.delete()
        case "update":  # sends no signal
            User.objects.filter(pk=user.pk).update(is_active=False)
        case "staff":
            User.objects.filter(pk=user.pk).update(is_staff=request.GET["value"] == "1")
        case "close":
            close_user(user, "out", int(request.GET["code"]))
        case what:
            raise LookupError(what)
    return JsonResponse({"user": user.pk})
