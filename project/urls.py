from django.contrib import admin
from django.urls import include, path

from project import views

urlpatterns = [
    path("", views.demo, name="demo"),
    path("order/", views.order, name="order"),
    path("admin/", admin.site.urls),
    path("graceful/", include("graceful_ws.urls")),
]
