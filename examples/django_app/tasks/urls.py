from django.urls import path

from tasks import views

urlpatterns = [
    path("", views.index),
    path("add", views.add),
    path("done/<int:task_id>", views.done),
    path("tasks.json", views.as_json),
    path("whoami", views.whoami),
    path("wait", views.wait),
    path("spin", views.spin),
]
