from django.db import migrations, models

ID = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    dependencies = [("project", "0001_initial")]

    operations = [
        migrations.RenameModel("Note", "Line"),
        migrations.DeleteModel("Clock"),
        migrations.CreateModel(
            name="Clock",
            fields=[("id", ID), ("ticks", models.PositiveBigIntegerField(default=0))],
        ),
        migrations.CreateModel(
            name="Visitor",
            fields=[
                ("session", models.UUIDField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=24)),
                ("counts", models.JSONField(default=dict)),
            ],
        ),
    ]
