import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.Statement;
import javax.sql.DataSource;

/** Runs the Java client that the first argument names. See programs/golang/main.go. */
public class Main {
	interface Client {
		int run(String operation, String number) throws Exception;
	}

	static final String SERVER = System.getenv("SERVER");
	static final String POSTGRES = "jdbc:postgresql://" + SERVER + "/app?user=app&password=app";
	static final String MARIADB = "jdbc:mariadb://" + SERVER + "/app?user=app&password=app";

	static String url(String operation, String number) {
		return "http://" + SERVER + ":80/" + operation + "?number=" + number;
	}

	static Client sql(DataSource pool, String dialect) {
		return (operation, number) -> {
			String text = System.getenv(dialect + "_" + operation.toUpperCase()).replace("NUMBER", number);
			int n = 0;
			try (Connection conn = pool.getConnection(); Statement s = conn.createStatement(); ResultSet rows = s.executeQuery(text)) {
				while (rows.next()) {
					n++;
				}
			}
			return n;
		};
	}

	static DataSource hikari(String url) {
		var pool = new com.zaxxer.hikari.HikariDataSource();
		pool.setJdbcUrl(url);
		pool.setMaximumPoolSize(1);
		return pool;
	}

	static DataSource dbcp(String url) {
		var pool = new org.apache.commons.dbcp2.BasicDataSource();
		pool.setUrl(url);
		return pool;
	}

	static int urlConnection(String operation, String number) throws IOException {
		var conn = (HttpURLConnection) URI.create(url(operation, number)).toURL().openConnection();
		try (InputStream in = conn.getInputStream()) {
			return in.readAllBytes().length;
		}
	}

	static Client javaNet() {
		var http = HttpClient.newHttpClient();
		return (operation, number) -> {
			// The servers answer no upgrade to HTTP/2.
			var request = HttpRequest.newBuilder(URI.create(url(operation, number))).build();
			var response = http.send(request, HttpResponse.BodyHandlers.ofByteArray());
			if (response.statusCode() != 200) {
				throw new IOException("status " + response.statusCode());
			}
			return response.body().length;
		};
	}

	static Client apache() {
		var http = org.apache.http.impl.client.HttpClients.createDefault();
		return (operation, number) -> {
			try (var response = http.execute(new org.apache.http.client.methods.HttpGet(url(operation, number)))) {
				return org.apache.http.util.EntityUtils.toByteArray(response.getEntity()).length;
			}
		};
	}

	static Client okhttp() {
		var http = new okhttp3.OkHttpClient();
		return (operation, number) -> {
			try (var response = http.newCall(new okhttp3.Request.Builder().url(url(operation, number)).build()).execute()) {
				return response.body().bytes().length;
			}
		};
	}

	static Client client(String name) {
		return switch (name) {
			case "HikariCP-PostgreSQL" -> sql(hikari(POSTGRES), "PG");
			case "HikariCP-MariaDB" -> sql(hikari(MARIADB), "MY");
			case "DBCP2-PostgreSQL" -> sql(dbcp(POSTGRES), "PG");
			case "DBCP2-MariaDB" -> sql(dbcp(MARIADB), "MY");
			case "HttpURLConnection" -> Main::urlConnection;
			case "java.net.http" -> javaNet();
			case "HttpClient4" -> apache();
			case "OkHttp" -> okhttp();
			default -> throw new IllegalArgumentException(name);
		};
	}

	public static void main(String[] args) throws IOException {
		Client client = null;
		var in = new BufferedReader(new InputStreamReader(System.in));
		for (String line = in.readLine(); line != null; line = in.readLine()) {
			String[] words = line.split(" ");
			try {
				if (client == null) {
					client = client(args[0]);
				}
				System.out.println("ok " + client.run(words[0], words[1]));
			} catch (Exception e) {
				String text = e + (e.getCause() == null ? "" : ": " + e.getCause());
				System.out.println("error " + text.replaceAll("\\s+", " "));
			}
		}
		System.exit(0);
	}
}
